#include "node/agent/identity.h"

#include <cstdio>

namespace ublk_operator {

namespace {
constexpr uint64_t magic = 0x7562;  // "ub"
constexpr int hash_bits = 48;

// FNV-1a, 64 bit: stable across versions and machines, which std::hash is not.
uint64_t fnv1a(std::string_view text, uint64_t hash = 0xcbf29ce484222325ULL) {
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3ULL;
  }
  return hash;
}
}  // namespace

uint64_t volume_identity(std::string_view node_id, std::string_view volume_uid) {
  const uint64_t hash = fnv1a(volume_uid, fnv1a("/", fnv1a(node_id)));
  return magic << hash_bits | (hash & ((uint64_t{1} << hash_bits) - 1));
}

bool is_volume_identity(uint64_t identity) { return identity >> hash_bits == magic; }

std::string local_volume_uid(std::string_view node_id, std::string_view name) {
  const uint64_t high = fnv1a(name, fnv1a(node_id));
  const uint64_t low = fnv1a(node_id, fnv1a(name));
  char text[40];
  // The shape of a UUID, version 8 (RFC 9562: custom).
  std::snprintf(text, sizeof text, "%08x-%04x-8%03x-8%03x-%012llx",
                static_cast<unsigned>(high >> 32), static_cast<unsigned>(high >> 16 & 0xffff),
                static_cast<unsigned>(high & 0xfff), static_cast<unsigned>(low >> 52),
                static_cast<unsigned long long>(low & 0xffffffffffffULL));
  return text;
}

}  // namespace ublk_operator
