# The C types of fib_kernel.py. noexcept: it cannot raise, so no call has to look for an error.
cpdef long long fib(long long n) noexcept
