#pragma once
#include <vector>
std::vector<unsigned> primes_below(unsigned limit);
