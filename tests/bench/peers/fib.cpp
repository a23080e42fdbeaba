// The demonstration's jobs as a program of their own: what they cost without a pool.
#include <cstdio>
#include <cstdlib>

static long long fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

int main(int count, char **words) {
    if (count != 2) return 2;
    std::printf("%lld\n", fib(std::atoi(words[1])));
    return 0;
}
