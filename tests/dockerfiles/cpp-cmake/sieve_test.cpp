#include "sieve.hpp"

int main() { return primes_below(100).size() == 25 ? 0 : 1; }
