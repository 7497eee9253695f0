#include "common/base/error.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ublk_operator {

std::string errno_name(int err) {
  const char* name = strerrorname_np(err);
  return name != nullptr ? name : "errno " + std::to_string(err);
}

std::string Error::to_string() const {
  std::string text = errno_name(err) + " " + operation;
  if (!object.empty()) text += " " + object;
  text += ": ";
  text += detail.empty() ? strerrordesc_np(err) != nullptr ? strerrordesc_np(err) : "unknown error"
                         : detail.c_str();
  return text;
}

Error errno_error(std::string_view operation, std::string_view object, std::string_view detail) {
  return Error{errno, std::string(operation), std::string(object), std::string(detail)};
}

void panic(std::string_view what, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: broken assumption: %.*s\n", file, line,
               static_cast<int>(what.size()), what.data());
  std::abort();
}

}  // namespace ublk_operator
