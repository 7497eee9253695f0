#include "common/metrics/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <mutex>
#include <sstream>

#include "common/base/error.h"

namespace ublk_operator::metrics {

namespace {

// A family and its series with their labels: the library finds a series by its address only.
template <typename T>
struct Known {
  prometheus::Family<T>* family = nullptr;
  std::map<Labels, T*> series;

  void remove(const Labels& labels) {
    std::erase_if(series, [&](const auto& one) {
      const bool matches = std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
        const auto at = one.first.find(label.first);
        return at != one.first.end() && at->second == label.second;
      });
      if (matches) family->Remove(one.second);
      return matches;
    });
  }
};

template <typename T>
using Families = std::map<std::string, Known<T>>;

}  // namespace

struct Registry::Impl {
  template <typename T, typename... Args>
  T* find(Families<T>& families, const std::string& name, const std::string& help,
          const Labels& labels, const Args&... args) {
    const std::scoped_lock lock(mutex);
    auto& known = families[name];
    if (known.family == nullptr) {
      try {
        known.family = &prometheus::detail::Builder<T>().Name(name).Help(help).Register(registry);
      } catch (const std::exception& problem) {
        panic(problem.what(), __FILE__, __LINE__);
      }
    }
    auto& series = known.series[labels];
    if (series == nullptr) series = &known.family->Add(labels, args...);
    return series;
  }

  prometheus::Registry registry;
  std::mutex mutex;  // guards what follows
  Families<prometheus::Counter> counters;
  Families<prometheus::Gauge> gauges;
  Families<prometheus::Histogram> histograms;
  std::mutex looking;  // guards what follows
  std::vector<std::function<void()>> looks;
};

void Counter::add(double amount) const { series_->Increment(amount); }
double Counter::value() const { return series_->Value(); }
void Gauge::set(double value) const { series_->Set(value); }
double Gauge::value() const { return series_->Value(); }
void Histogram::observe(double value) const { series_->Observe(value); }
void Histogram::observe_many(const std::vector<double>& counts, double sum) const {
  series_->ObserveMultiple(counts, sum);
}

Registry::Registry() : impl_(std::make_unique<Impl>()) {}
Registry::~Registry() = default;

Counter Registry::counter(const std::string& name, const std::string& help, const Labels& labels) {
  Counter handle;
  handle.series_ = impl_->find(impl_->counters, name, help, labels);
  return handle;
}

Gauge Registry::gauge(const std::string& name, const std::string& help, const Labels& labels) {
  Gauge handle;
  handle.series_ = impl_->find(impl_->gauges, name, help, labels);
  return handle;
}

Histogram Registry::histogram(const std::string& name, const std::string& help,
                              const std::vector<double>& bounds, const Labels& labels) {
  Histogram handle;
  handle.series_ = impl_->find(impl_->histograms, name, help, labels, bounds);
  return handle;
}

void Registry::remove(const Labels& labels) {
  const std::scoped_lock lock(impl_->mutex);
  for (auto& [name, known] : impl_->counters) known.remove(labels);
  for (auto& [name, known] : impl_->gauges) known.remove(labels);
  for (auto& [name, known] : impl_->histograms) known.remove(labels);
}

void Registry::on_scrape(std::function<void()> look) {
  const std::scoped_lock lock(impl_->looking);
  impl_->looks.push_back(std::move(look));
}

std::string Registry::text() const {
  const std::scoped_lock lock(impl_->looking);
  for (const auto& look : impl_->looks) look();
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, impl_->registry.Collect());
  return out.str();
}

}  // namespace ublk_operator::metrics
