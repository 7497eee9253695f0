// Metrics: what a program counts, as Prometheus reads it. The only sight of prometheus-cpp.
// Shape    a Registry holds families by name; counter(), gauge() and histogram() give the one
//          series of these labels, the same again when asked again. Names end in their base unit,
//          counters in _total. Label values come from sets that a limit bounds.
// Errors   a name that is no metric's, or of another type, is a broken assumption: it aborts.
// Threads  any. A handle is valid as long as the Registry, unless its series is removed.
// Source   Prometheus, "Metric and label naming" and "Exposition formats" (text, 0.0.4).
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
}  // namespace prometheus

namespace ublk_operator::metrics {

using Labels = std::map<std::string, std::string>;

class Counter {
 public:
  void add(double amount = 1) const;  // never less than 0
  [[nodiscard]] double value() const;

 private:
  friend class Registry;
  prometheus::Counter* series_ = nullptr;
};

class Gauge {
 public:
  void set(double value) const;
  [[nodiscard]] double value() const;

 private:
  friend class Registry;
  prometheus::Gauge* series_ = nullptr;
};

class Histogram {
 public:
  void observe(double value) const;
  // What was counted elsewhere: one number a bucket, the one above all bounds included.
  void observe_many(const std::vector<double>& counts, double sum) const;

 private:
  friend class Registry;
  prometheus::Histogram* series_ = nullptr;
};

class Registry {
 public:
  static constexpr const char* content_type = "text/plain; version=0.0.4; charset=utf-8";

  Registry();
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  Counter counter(const std::string& name, const std::string& help, const Labels& labels = {});
  Gauge gauge(const std::string& name, const std::string& help, const Labels& labels = {});
  // `bounds`: upper ones, ascending; +Inf is added. The same for every series of a name.
  Histogram histogram(const std::string& name, const std::string& help,
                      const std::vector<double>& bounds, const Labels& labels = {});
  // The series of what is no more (a volume): all of every name that carry these labels.
  void remove(const Labels& labels);

  // Called before each text(), one at a time: sets gauges of what is only known by looking.
  void on_scrape(std::function<void()> look);
  // Everything, in the text format.
  [[nodiscard]] std::string text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ublk_operator::metrics
