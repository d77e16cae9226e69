#include "sieve.hpp"
#include <iostream>
#include <string>

int main(int count, char **arguments) {
    const auto primes = primes_below(count > 1 ? std::stoul(arguments[1]) : 100);
    std::cout << primes.size() << " primes, the last " << primes.back() << '\n';
}
