"""Ports to listen on."""

import errno
import socket

from divdet.engine.errors import UserError
from divdet.engine.files import reason


def bind(host: str, port: int, listen: bool = False) -> socket.socket:
    """Takes a port, 0 for any free one.

    Args:
        host: an address of this machine, or its name.
        port: 0 to 65535.
        listen: let clients connect from now on; else when a server takes the socket over.

    Raises:
        UserError: where the port is in use, or the host is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        if listen:
            bound.listen(128)
    except UnicodeError as error:
        raise UserError(f"--host {host}: no host has such a name") from error
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """The http address of a socket, for programs on this machine."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def cannot_listen(host: str, port: int, error: OSError) -> UserError:
    """What a user is told where a port cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return UserError(f"port {port} is in use: choose another with --port, or --port 0 for a free one")
    return UserError(f"--host {host} --port {port}: cannot listen there ({reason(error)}): choose another")
