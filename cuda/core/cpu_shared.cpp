// Shared memory on the CPU: a file without a path. It is gone with the last process that maps it or has it open, however they end.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "cpu.h"

namespace kva {

namespace {

[[noreturn]] void unsupported(const char* what) {
  fail(KVA_E_UNSUPPORTED, "%s: %s: processes cannot share memory here", what, strerror(errno));
}

// An open file, closed with this object.
struct File {
  int number;
  ~File() {
    if (number >= 0) close(number);
  }
};

// "cpu:PID:DESCRIPTOR:INODE"
constexpr const char* name_format = "cpu:%d:%d:%llu";

ino_t inode_of(int file, int64_t bytes) {
  struct stat status;
  return fstat(file, &status) == 0 && status.st_size >= bytes ? status.st_ino : 0;
}

struct OpenedMemory final : SharedMemory {
  OpenedMemory(const std::string& name, int64_t size) {
    int process = 0, descriptor = 0;
    unsigned long long inode = 0;
    require(sscanf(name.c_str(), name_format, &process, &descriptor, &inode) == 3, "\"%s\" is not the name of shared memory of the CPU",
            name.c_str());
    const std::string path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(descriptor);
    File file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.number < 0)
      fail(KVA_E_UNSUPPORTED, "%s: %s: processes cannot share memory here, or the one that made it is gone", path.c_str(), strerror(errno));
    // a later process may have the number of one that is gone
    if (inode == 0 || inode_of(file.number, size) != inode)
      fail(KVA_E_UNSUPPORTED, "%s is not what %s names: its maker is gone", path.c_str(), name.c_str());
    // private: whoever writes here by mistake gets a copy of the page, and nobody else sees it
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.number, 0);
    if (memory == MAP_FAILED) unsupported("mmap");
    data = memory;
    bytes = size;
  }
  ~OpenedMemory() override { munmap(data, bytes); }
  std::string name() override { fail(KVA_E_ARGUMENT, "the block was opened here; the process that made it gives its name"); }
};

}  // namespace

struct MadeMemory final : SharedMemory {
  Cpu& device;
  File file;

  MadeMemory(Cpu& device, int64_t size) : device(device), file{memfd_create("kvaccel", MFD_CLOEXEC)} {
    if (file.number < 0) unsupported("memfd_create");
    if (ftruncate(file.number, size) != 0) unsupported("ftruncate");
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.number, 0);
    if (memory == MAP_FAILED) unsupported("mmap");
    data = memory;
    bytes = size;
    device.reserved_ += bytes;
  }
  ~MadeMemory() override {
    device.reserved_ -= bytes;
    munmap(data, bytes);
  }
  std::string name() override {
    char text[80];
    snprintf(text, sizeof text, name_format, int(getpid()), file.number, (unsigned long long)inode_of(file.number, bytes));
    return text;
  }
};

std::unique_ptr<SharedMemory> Cpu::share(int64_t bytes) {
  if (bytes > free_bytes()) return nullptr;
  return std::make_unique<MadeMemory>(*this, bytes);
}

std::unique_ptr<SharedMemory> Cpu::open_shared(const std::string& name, int64_t bytes) { return std::make_unique<OpenedMemory>(name, bytes); }

}  // namespace kva
