#include "sieve.hpp"

std::vector<unsigned> primes_below(unsigned limit) {
    std::vector<bool> composite(limit);
    std::vector<unsigned> primes;
    for (unsigned n = 2; n < limit; ++n) {
        if (composite[n]) continue;
        primes.push_back(n);
        for (unsigned long long m = 1ull * n * n; m < limit; m += n) composite[m] = true;
    }
    return primes;
}
