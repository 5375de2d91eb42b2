// How a model's layers on another node are reached: over Unix sockets, whose folder only the node's user may
// enter. It takes the place of the TCP transport of the engine's sources, which would let in any user of the machine.
// An address is PATH:0.

#include "transport.h"

#include <cerrno>
#include <cstring>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct socket_t::impl {
    explicit impl(int fd) : fd(fd) {}
    ~impl() { close(fd); }
    impl(const impl &) = delete;
    impl & operator=(const impl &) = delete;

    const int fd;
};

namespace {

bool address_of(const char * path, sockaddr_un & address) {
    if (std::strlen(path) >= sizeof(address.sun_path)) {
        return false;
    }
    address = {};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path);
    return true;
}

template <typename Use> int socket_at(const char * path, Use use) {
    sockaddr_un address;
    if (!address_of(path, address)) {
        return -1;
    }
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && use(fd, reinterpret_cast<const sockaddr *>(&address), socklen_t(sizeof(address))) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

template <typename Byte, typename Step> bool all_of(Byte * data, size_t size, Step step) {
    while (size > 0) {
        const ssize_t done = step(data, size < MAX_CHUNK_SIZE ? size : MAX_CHUNK_SIZE);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return false;
        }
        data += done;
        size -= size_t(done);
    }
    return true;
}

}  // namespace

socket_t::socket_t(std::unique_ptr<impl> p) : pimpl(std::move(p)) {}

socket_t::~socket_t() = default;

bool socket_t::send_data(const void * data, size_t size) {
    const int fd = pimpl->fd;
    return all_of(static_cast<const char *>(data), size, [fd](const char * at, size_t most) {
        return send(fd, at, most, MSG_NOSIGNAL);
    });
}

bool socket_t::recv_data(void * data, size_t size) {
    const int fd = pimpl->fd;
    return all_of(static_cast<char *>(data), size, [fd](char * at, size_t most) {
        return recv(fd, at, most, 0);
    });
}

bool socket_t::flush() {
    return true;
}

void socket_t::get_caps(uint8_t * local_caps) {
    std::memset(local_caps, 0, RPC_CONN_CAPS_SIZE);
}

void socket_t::update_caps(const uint8_t *) {}

socket_ptr socket_t::accept() {
    const int fd = accept4(pimpl->fd, nullptr, nullptr, SOCK_CLOEXEC);
    return fd < 0 ? nullptr : socket_ptr(new socket_t(std::make_unique<impl>(fd)));
}

socket_ptr socket_t::create_server(const char * path, int) {
    const int fd = socket_at(path, [](int fd, const sockaddr * address, socklen_t size) {
        return bind(fd, address, size) < 0 ? -1 : listen(fd, 1);
    });
    return fd < 0 ? nullptr : socket_ptr(new socket_t(std::make_unique<impl>(fd)));
}

socket_ptr socket_t::connect(const char * path, int) {
    const int fd = socket_at(path, ::connect);
    return fd < 0 ? nullptr : socket_ptr(new socket_t(std::make_unique<impl>(fd)));
}

bool rpc_transport_init() {
    return true;
}

void rpc_transport_shutdown() {}
