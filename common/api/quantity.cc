#include "common/api/quantity.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "common/base/strings.h"

namespace ublk_operator {
namespace {

constexpr uint64_t kBytesMax = std::numeric_limits<int64_t>::max();
// 10^18 is the largest power of ten that an int64_t holds.
constexpr unsigned kPowerMax = 18;

uint64_t power_of_ten(unsigned exponent) {
  uint64_t power = 1;
  while (exponent-- > 0) power *= 10;
  return power;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// digits / 10^fraction_digits, exactly.
struct Decimal {
  uint64_t digits = 0;
  unsigned fraction_digits = 0;
};

enum class Outcome { ok, no_number, too_precise, overflow };

// Takes a decimal number from the front of `text`.
Outcome take_decimal(std::string_view& text, Decimal& decimal) {
  size_t whole = 0;
  while (whole < text.size() && is_digit(text[whole])) ++whole;
  std::string digits(text.substr(0, whole));
  size_t end = whole;
  std::string fraction;
  if (end < text.size() && text[end] == '.') {
    ++end;
    const size_t begin = end;
    while (end < text.size() && is_digit(text[end])) ++end;
    fraction = text.substr(begin, end - begin);
  }
  if (digits.empty() && fraction.empty()) return Outcome::no_number;
  text.remove_prefix(end);
  while (!fraction.empty() && fraction.back() == '0') fraction.pop_back();
  if (fraction.size() > kPowerMax) return Outcome::too_precise;
  digits += fraction;
  decimal = {};
  decimal.fraction_digits = static_cast<unsigned>(fraction.size());
  for (const char c : digits) {
    const auto digit = static_cast<uint64_t>(c - '0');
    if (decimal.digits > (kBytesMax - digit) / 10) return Outcome::overflow;
    decimal.digits = decimal.digits * 10 + digit;
  }
  return Outcome::ok;
}

// decimal * multiplier / 10^divisor_exponent when that is a whole number up to `maximum`.
// Cancelling first keeps every step within 64 bits.
Outcome scale(const Decimal& decimal, uint64_t multiplier, unsigned divisor_exponent,
              uint64_t maximum, uint64_t& scaled) {
  scaled = 0;
  if (decimal.digits == 0) return Outcome::ok;
  const unsigned exponent = decimal.fraction_digits + divisor_exponent;
  if (exponent > kPowerMax) return Outcome::too_precise;
  uint64_t divisor = power_of_ten(exponent);
  const uint64_t common = std::gcd(multiplier, divisor);
  multiplier /= common;
  divisor /= common;
  if (decimal.digits % divisor != 0) {
    return decimal.digits / divisor > maximum / multiplier ? Outcome::overflow
                                                           : Outcome::too_precise;
  }
  const uint64_t whole = decimal.digits / divisor;
  if (whole > maximum / multiplier) return Outcome::overflow;
  scaled = whole * multiplier;
  return Outcome::ok;
}

struct Suffix {
  const char* name;
  uint64_t multiplier;
};

// Largest first: format_quantity takes the first that fits.
constexpr std::array<Suffix, 6> kBinarySuffixes{{{"Ei", uint64_t{1} << 60},
                                                 {"Pi", uint64_t{1} << 50},
                                                 {"Ti", uint64_t{1} << 40},
                                                 {"Gi", uint64_t{1} << 30},
                                                 {"Mi", uint64_t{1} << 20},
                                                 {"Ki", uint64_t{1} << 10}}};
constexpr std::array<Suffix, 6> kDecimalSuffixes{{{"E", 1'000'000'000'000'000'000},
                                                  {"P", 1'000'000'000'000'000},
                                                  {"T", 1'000'000'000'000},
                                                  {"G", 1'000'000'000},
                                                  {"M", 1'000'000},
                                                  {"k", 1'000}}};

std::optional<uint64_t> find_suffix(std::string_view name) {
  if (name.empty()) return 1;
  for (const auto& suffix : kBinarySuffixes) {
    if (name == suffix.name) return suffix.multiplier;
  }
  for (const auto& suffix : kDecimalSuffixes) {
    if (name == suffix.name) return suffix.multiplier;
  }
  return std::nullopt;
}

// What a message may quote: a manifest can hold megabytes in one word.
std::string quoted(std::string_view text) {
  constexpr size_t shown_max = 40;
  std::string shown = "'";
  for (const char c : text.substr(0, shown_max)) {
    shown += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  return shown + (text.size() > shown_max ? "...'" : "'");
}

Error quantity_error(int err, std::string_view text, const std::string& detail) {
  return Error{err, "parse_quantity", quoted(text), detail};
}

// "e3", "E-3": the exponent, or nothing when `text` is not one.
std::optional<int> parse_exponent(std::string_view text) {
  if (text.size() < 2 || (text[0] != 'e' && text[0] != 'E')) return std::nullopt;
  text.remove_prefix(1);
  const bool negative = text[0] == '-';
  if (text[0] == '-' || text[0] == '+') text.remove_prefix(1);
  if (text.empty()) return std::nullopt;
  int exponent = 0;
  for (const char c : text) {
    if (!is_digit(c)) return std::nullopt;
    exponent = std::min(exponent * 10 + (c - '0'), 1000);
  }
  return negative ? -exponent : exponent;
}

constexpr uint64_t kNanosecondsPerMillisecond = 1'000'000;
constexpr std::array<Suffix, 7> kDurationUnits{{{"h", 3'600'000 * kNanosecondsPerMillisecond},
                                                {"m", 60'000 * kNanosecondsPerMillisecond},
                                                {"s", 1'000 * kNanosecondsPerMillisecond},
                                                {"ms", kNanosecondsPerMillisecond},
                                                {"us", 1000},
                                                {"\u00b5s", 1000},
                                                {"ns", 1}}};

// `unit_exponent`: 10^that nanoseconds are one unit of the result.
Result<uint64_t> parse_duration_as(std::string_view text, unsigned unit_exponent,
                                   const char* unit_name, uint64_t maximum,
                                   const char* maximum_text) {
  const auto error = [&](int err, const std::string& detail) {
    return Error{err, "parse_duration", quoted(text), detail};
  };
  if (text == "0") return uint64_t{0};
  if (text.empty()) return error(EINVAL, "is empty; expected a duration such as 30s or 1m30s");
  if (text.front() == '-') return error(EINVAL, "is negative; expected a duration such as 30s");
  std::string_view rest = text;
  uint64_t total = 0;
  while (!rest.empty()) {
    Decimal decimal;
    const Outcome number = take_decimal(rest, decimal);
    if (number == Outcome::no_number) {
      return error(EINVAL, "is not a duration; expected one such as 500ms, 30s, 1m30s or 2h");
    }
    size_t length = 0;
    while (length < rest.size() && !is_digit(rest[length]) && rest[length] != '.') ++length;
    const std::string_view unit = rest.substr(0, length);
    rest.remove_prefix(length);
    if (unit.empty()) {
      return error(EINVAL, "has no unit; expected one of h, m, s, ms (did you mean " +
                               quoted(std::string(text.substr(0, 40)) + "s") + "?)");
    }
    const Suffix* found = nullptr;
    for (const auto& known : kDurationUnits) {
      if (unit == known.name) found = &known;
    }
    if (found == nullptr) {
      return error(EINVAL, "has the unknown unit " + quoted(unit) + "; expected h, m, s or ms");
    }
    uint64_t scaled = 0;
    const Outcome outcome = number == Outcome::ok
                                ? scale(decimal, found->multiplier, unit_exponent, maximum, scaled)
                                : number;
    if (outcome == Outcome::too_precise) {
      return error(EINVAL, std::string("is not a whole number of ") + unit_name);
    }
    if (outcome != Outcome::ok || scaled > maximum - total) {
      return error(ERANGE, std::string("is too long; at most ") + maximum_text);
    }
    total += scaled;
  }
  return total;
}

// 41'234 with 3 digits of fraction: "41.234"; without needless zeros.
std::string with_fraction(uint64_t value, unsigned fraction_digits) {
  const uint64_t divisor = power_of_ten(fraction_digits);
  std::string text = std::to_string(value / divisor);
  std::string fraction = std::to_string(value % divisor + divisor).substr(1);
  while (!fraction.empty() && fraction.back() == '0') fraction.pop_back();
  return fraction.empty() ? text : text + "." + fraction;
}

std::string format_time_as(std::chrono::system_clock::time_point time, bool micro) {
  const auto whole = std::chrono::floor<std::chrono::seconds>(time);
  const std::time_t seconds = std::chrono::system_clock::to_time_t(whole);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  std::array<char, 32> text{};
  std::string formatted(text.data(),
                        std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &utc));
  if (micro) {
    const auto part = std::chrono::duration_cast<std::chrono::microseconds>(time - whole).count();
    formatted += "." + std::to_string(1'000'000 + part).substr(1);
  }
  return formatted + "Z";
}

}  // namespace

Result<uint64_t> parse_quantity(std::string_view text) {
  if (text.empty())
    return quantity_error(EINVAL, text, "is empty; expected a quantity such as 10Gi");
  if (text.front() == '-') {
    return quantity_error(EINVAL, text, "is negative; expected a quantity such as 10Gi");
  }
  std::string_view rest = text;
  if (rest.front() == '+') rest.remove_prefix(1);
  Decimal decimal;
  const Outcome number = take_decimal(rest, decimal);
  if (number == Outcome::no_number) {
    return quantity_error(EINVAL, text, "is not a quantity; expected one such as 10Gi");
  }
  uint64_t multiplier = 1;
  unsigned divisor_exponent = 0;
  if (const auto exponent = parse_exponent(rest)) {
    // Beyond these every number but 0 is out of range anyway.
    const auto magnitude = std::min(static_cast<unsigned>(std::abs(*exponent)), kPowerMax + 1);
    if (*exponent < 0) {
      divisor_exponent = magnitude;
    } else if (magnitude > kPowerMax && decimal.digits != 0) {
      return quantity_error(ERANGE, text, "is too large; at most 2^63-1 bytes");
    } else {
      multiplier = power_of_ten(std::min(magnitude, kPowerMax));
    }
  } else if (const auto suffix = find_suffix(rest)) {
    multiplier = *suffix;
  } else {
    std::string detail = "has the unknown suffix " + quoted(rest) +
                         "; expected Ki, Mi, Gi, Ti, Pi, Ei, k, M, G, T, P, E or none";
    constexpr size_t guessable = 8;
    const std::string guess =
        rest.size() > guessable ? "" : nearest(rest, {"Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "k"});
    if (!guess.empty()) detail += " (did you mean '" + guess + "'?)";
    return quantity_error(EINVAL, text, detail);
  }
  uint64_t bytes = 0;
  const Outcome outcome = number == Outcome::ok
                              ? scale(decimal, multiplier, divisor_exponent, kBytesMax, bytes)
                              : number;
  if (outcome == Outcome::too_precise) {
    return quantity_error(EINVAL, text, "is not a whole number of bytes");
  }
  if (outcome != Outcome::ok) {
    return quantity_error(ERANGE, text, "is too large; at most 2^63-1 bytes");
  }
  return bytes;
}

std::string format_quantity(uint64_t bytes) {
  std::string shortest = std::to_string(bytes);
  if (bytes == 0) return shortest;
  // Of equally short ones the binary suffix wins: block devices are made of powers of two.
  for (const auto& suffix : kDecimalSuffixes) {
    if (bytes % suffix.multiplier != 0) continue;
    shortest = std::to_string(bytes / suffix.multiplier) + suffix.name;
    break;
  }
  for (const auto& suffix : kBinarySuffixes) {
    if (bytes % suffix.multiplier != 0) continue;
    const std::string text = std::to_string(bytes / suffix.multiplier) + suffix.name;
    if (text.size() <= shortest.size()) shortest = text;
    break;
  }
  return shortest;
}

Result<std::chrono::milliseconds> parse_duration(std::string_view text) {
  constexpr std::chrono::milliseconds maximum = std::chrono::hours(24 * 24);
  auto parsed = parse_duration_as(text, 6, "milliseconds", uint64_t{maximum.count()}, "24 days");
  if (!parsed) return std::move(parsed).error();
  return std::chrono::milliseconds(static_cast<int64_t>(*parsed));
}

Result<std::chrono::microseconds> parse_duration_micro(std::string_view text) {
  auto parsed = parse_duration_as(text, 3, "microseconds", kBytesMax, "2^63-1 microseconds");
  if (!parsed) return std::move(parsed).error();
  return std::chrono::microseconds(static_cast<int64_t>(*parsed));
}

std::string format_duration_micro(std::chrono::microseconds duration) {
  const auto count = static_cast<uint64_t>(std::max<int64_t>(duration.count(), 0));
  if (count == 0) return "0s";
  if (count < 1'000) return std::to_string(count) + "us";
  if (count < 1'000'000) return with_fraction(count, 3) + "ms";
  constexpr uint64_t minute = 60'000'000;
  std::string text;
  if (count >= 60 * minute) text += std::to_string(count / (60 * minute)) + "h";
  if (count / minute % 60 != 0) text += std::to_string(count / minute % 60) + "m";
  if (count % minute != 0) text += with_fraction(count % minute, 6) + "s";
  return text;
}

std::string format_duration(std::chrono::milliseconds duration) {
  return format_duration_micro(duration);
}

std::string format_time(std::chrono::system_clock::time_point time) {
  return format_time_as(time, false);
}

std::string format_time_micro(std::chrono::system_clock::time_point time) {
  return format_time_as(time, true);
}

}  // namespace ublk_operator
