// The version of the build: UBLK_VERSION comes from project() in CMakeLists.txt.
#pragma once

namespace ublk_operator {
inline constexpr const char* kVersion = UBLK_VERSION;
}  // namespace ublk_operator
