import sys, time
from sim.schedule import run
first, count = int(sys.argv[1]), int(sys.argv[2])
t=time.time(); seen=None; virt=0
for seed in range(first, first+count):
    v = run(seed, tracing=count==1)
    virt += v.virtual_ns
    seen = v.seen if seen is None else seen + v.seen
    if v.violation:
        if v.trace: print("\n".join(v.trace[-int(sys.argv[3]) if len(sys.argv)>3 else -80:]))
        print(seed, v.violation)
        if count>1 and len(sys.argv)<=3: break
el=time.time()-t
print(count, el, count/el, virt/1e9/count)
for k,n in sorted(seen.items()): print(k,n)
