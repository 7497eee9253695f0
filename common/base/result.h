// Result<T>: a value or an Error, and never ignored. A small stand-in for std::expected (C++23), so
// that it can be replaced by it; no implicit conversion to bool in arithmetic, no exceptions.
#pragma once
#include <optional>
#include <utility>
#include <variant>

#include "common/base/error.h"

namespace ublk_operator {

template <typename T>
class [[nodiscard]] Result {
 public:
  // Implicit on purpose: `return value;` and `return Error{...};` are how a Result is made.
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Calling the wrong one is a broken assumption: it aborts.
  T& value() & { return check_value(), std::get<0>(state_); }
  const T& value() const& { return check_value(), std::get<0>(state_); }
  T&& value() && { return check_value(), std::get<0>(std::move(state_)); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }

  [[nodiscard]] const Error& error() const& { return check_error(), std::get<1>(state_); }
  [[nodiscard]] Error&& error() && { return check_error(), std::get<1>(std::move(state_)); }
  // 0 when ok, else the errno: for tests and switches.
  [[nodiscard]] int err() const { return ok() ? 0 : std::get<1>(state_).err; }

 private:
  void check_value() const {
    if (!ok()) panic(std::get<1>(state_).to_string(), __FILE__, __LINE__);
  }
  void check_error() const { UBLK_CHECK(!ok()); }
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT

  [[nodiscard]] bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] const Error& error() const& {
    UBLK_CHECK(error_.has_value());
    return *error_;
  }
  [[nodiscard]] Error&& error() && {
    UBLK_CHECK(error_.has_value());
    return std::move(*error_);
  }
  [[nodiscard]] int err() const { return error_ ? error_->err : 0; }

 private:
  std::optional<Error> error_;
};

}  // namespace ublk_operator
