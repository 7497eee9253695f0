// What a test holds of the fake: the kernel, servers, open files.
#include <algorithm>
#include <optional>
#include <utility>

#include "node/ublk/fake_control_device.h"
#include "node/ublk/fake_kernel_state.h"

namespace ublk_operator {

using namespace fake;

FakeCharCopy::FakeCharCopy(std::shared_ptr<FakeKernelState> kernel, DeviceId id,
                           uint64_t device_serial)
    : kernel_(std::move(kernel)), id_(id), device_serial_(device_serial) {}
FakeCharCopy::FakeCharCopy(FakeCharCopy&& other) noexcept = default;
FakeCharCopy::~FakeCharCopy() {
  if (!kernel_) return;
  {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    if (const DevicePtr device = kernel_->find_device(id_, device_serial_))
      kernel_->drop_file_reference(device);
  }
  kernel_->deliver_releases();
}

FakeBlockFile::FakeBlockFile(std::shared_ptr<FakeKernelState> kernel, DeviceId id,
                             uint64_t disk_serial)
    : kernel_(std::move(kernel)), id_(id), disk_serial_(disk_serial) {}
FakeBlockFile::FakeBlockFile(FakeBlockFile&& other) noexcept = default;
FakeBlockFile::~FakeBlockFile() {
  if (!kernel_) return;
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const DevicePtr device = kernel_->find_device(id_);
  if (!device) return;
  const auto files = device->disk_files.find(disk_serial_);
  if (files == device->disk_files.end()) return;
  if (--files->second == 0) device->disk_files.erase(files);
  kernel_->free_if_unused(*device);
  kernel_->changed();
}

std::future<int> FakeBlockFile::submit(FakeIo io) {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  auto request = std::make_unique<Request>();
  request->io = io;
  std::future<int> done = request->done.get_future();
  const DevicePtr device = kernel_->find_device(id_);
  if (!device || device->disk != disk_serial_) {
    request->done.set_value(io.write ? ENOSPC : end_of_disk);
    return done;
  }
  device->waiting.push_back(std::move(request));
  kernel_->pump(*device);
  return done;
}

FakeServer::FakeServer(std::shared_ptr<FakeKernelState> kernel, pid_t pid)
    : kernel_(std::move(kernel)), pid_(pid) {}
FakeServer::FakeServer(FakeServer&& other) noexcept = default;
FakeServer::~FakeServer() {
  if (!kernel_) return;
  kill();
  reap();
}

int FakeServer::pidfd() const {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  return kernel_->find_process(pid_)->exited.fd();
}

Result<void> FakeServer::open_char(DeviceId id) {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const DevicePtr device = kernel_->find_device(id);
  if (!device || device->deleted) return Error{ENOENT, "open", char_path(id), "no such device"};
  if (device->open) return Error{EBUSY, "open", char_path(id), "somebody has it open"};
  Process* process = kernel_->find_process(pid_);
  UBLK_CHECK(process != nullptr && process->alive && !process->device);
  device->open = true;
  device->file_references = 1;
  device->opener = pid_;
  process->device = device;
  kernel_->changed();
  return {};
}

Result<void> FakeServer::map() {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const Process* process = kernel_->find_process(pid_);
  UBLK_CHECK(process != nullptr && process->device);
  Device& device = *process->device;
  if (device.memory_of == 0) device.memory_of = pid_;
  if (device.memory_of != pid_)
    return Error{EINVAL, "mmap", char_path(device.info.id),
                 "another process's memory is still bound to the device"};
  return {};
}

Result<void> FakeServer::fetch(uint16_t queue, uint16_t tag) {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  return kernel_->fetch(pid_, queue, tag);
}

Result<void> FakeServer::fetch_all() {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const Process* process = kernel_->find_process(pid_);
  UBLK_CHECK(process != nullptr && process->device);
  const DeviceInfo& info = process->device->info;
  for (uint16_t queue = 0; queue < info.queues; ++queue) {
    for (uint16_t tag = 0; tag < info.queue_depth; ++tag) {
      if (Result<void> fetched = kernel_->fetch(pid_, queue, tag); !fetched) return fetched;
    }
  }
  return {};
}

Result<void> FakeServer::serve(DeviceId id) {
  if (Result<void> opened = open_char(id); !opened) return opened;
  if (Result<void> mapped = map(); !mapped) return mapped;
  return fetch_all();
}

Result<FakeDelivery> FakeServer::next(CallLimit limit) {
  std::unique_lock<std::mutex> lock(kernel_->mutex);
  std::optional<FakeDelivery> delivery;
  const int why = kernel_->wait(lock, limit, [&] {
    Process* process = kernel_->find_process(pid_);
    if (process == nullptr || process->inbox.empty()) return false;
    delivery = process->inbox.front();
    process->inbox.pop_front();
    return true;
  });
  if (why != 0) return Error{why, "next", "server " + std::to_string(pid_), "no completion came"};
  return *delivery;
}

Result<void> FakeServer::commit(uint16_t queue, uint16_t tag, int err) {
  {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    const Process* process = kernel_->find_process(pid_);
    UBLK_CHECK(process != nullptr && process->device);
    Device& device = *process->device;
    if (queue >= device.queues.size() || tag >= device.queues[queue].tags.size() ||
        !device.queues[queue].tags[tag].owned || device.queues[queue].tags[tag].owner != pid_)
      return Error{EINVAL, "commit", object_name(device.info.id), "the tag is not in our hands"};
    Tag& slot = device.queues[queue].tags[tag];
    slot.active = true;
    slot.canceled = false;
    kernel_->end_request(device, std::move(slot.owned), err);
    kernel_->advance(device);
  }
  kernel_->deliver_releases();
  return {};
}

FakeCharCopy FakeServer::copy_char() {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const Process* process = kernel_->find_process(pid_);
  UBLK_CHECK(process != nullptr && process->device);
  ++process->device->file_references;
  return {kernel_, process->device->info.id, process->device->serial};
}

void FakeServer::close_char() {
  {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    if (Process* process = kernel_->find_process(pid_)) kernel_->give_up_char(*process, pid_);
  }
  kernel_->deliver_releases();
}

void FakeServer::kill() {
  {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    kernel_->kill(pid_);
  }
  kernel_->deliver_releases();
}

void FakeServer::reap() {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const Process* process = kernel_->find_process(pid_);
  if (process != nullptr && !process->alive) kernel_->processes.erase(pid_);
}

FakeKernel::FakeKernel(FakePersonality personality, unsigned cpus)
    : state_(std::make_shared<FakeKernelState>(personality, cpus)) {}

FakeServer FakeKernel::spawn_server() const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  const pid_t pid = state_->next_pid++;
  state_->processes.emplace(pid, std::make_unique<Process>(new_event()));
  return {state_, pid};
}

Result<FakeBlockFile> FakeKernel::open_block(DeviceId id) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  const DevicePtr device = state_->find_device(id);
  if (!device || device->disk == 0) return Error{ENOENT, "open", block_path(id), "no such disk"};
  ++device->disk_files[device->disk];
  return FakeBlockFile(state_, id, device->disk);
}

void FakeKernel::on_release(std::function<void(DeviceId)> listener) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  state_->release_listener = std::move(listener);
}

void FakeKernel::hold_release(DeviceId id) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  if (const DevicePtr device = state_->find_device(id)) device->release_held = true;
}

void FakeKernel::let_release(DeviceId id) const {
  {
    const std::lock_guard<std::mutex> guard(state_->mutex);
    const DevicePtr device = state_->find_device(id);
    if (!device) return;
    device->release_held = false;
    if (device->release_due) state_->release(*device);
  }
  state_->deliver_releases();
}

void FakeKernel::fire_request_timeout(DeviceId id) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  const DevicePtr device = state_->find_device(id);
  if (!device || state_->is_7_2()) return;
  for (Queue& queue : device->queues) {
    const Process* daemon = state_->find_process(queue.daemon);
    const bool dying = queue.daemon != 0 && (daemon == nullptr || !daemon->alive);
    const bool all_out = std::none_of(queue.tags.begin(), queue.tags.end(),
                                      [](const Tag& tag) { return tag.active; });
    if (dying && all_out) state_->abort_queue_6_12(*device, queue);
  }
  state_->advance(*device);
}

void FakeKernel::fail_next(const std::string& operation, int err) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  state_->failures[operation] = err;
}

unsigned FakeKernel::calls(const std::string& operation) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  const auto found = state_->calls.find(operation);
  return found == state_->calls.end() ? 0 : found->second;
}

std::string FakeKernel::crash() const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  return state_->crash;
}

}  // namespace ublk_operator
