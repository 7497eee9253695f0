// Small text helpers that the standard library of C++20 lacks.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace ublk_operator {

[[nodiscard]] std::string_view trim(std::string_view text);
[[nodiscard]] std::vector<std::string_view> split(std::string_view text, char separator);
[[nodiscard]] std::string join(const std::vector<std::string>& parts, std::string_view separator);

// The candidate that is nearest to `word` by edit distance, for "did you mean"; empty when none is
// near (a third of the word's length, and at least 1, may differ).
[[nodiscard]] std::string nearest(std::string_view word,
                                  const std::vector<std::string>& candidates);

}  // namespace ublk_operator
