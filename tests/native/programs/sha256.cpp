// sha256 PIECE: the SHA-256 of the standard input, given in pieces of that many bytes.
#include "../../../native/src/bundle/sha256.cpp"

#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int, char** arguments) {
  std::vector<char> piece(std::strtoul(arguments[1], nullptr, 10));
  e2e::Sha256 hash;
  while (const size_t got = std::fread(piece.data(), 1, piece.size(), stdin)) hash.update(piece.data(), got);
  std::printf("%s", hash.digest().c_str());
}
