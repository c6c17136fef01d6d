"""GnuTLS with raw public keys (RFC 7250), by way of cffi; no logic, only the library in Python's terms.

pyOpenSSL and cryptography have no interface for raw public keys, and the ``priority`` option is in GnuTLS's language.
A Session works on the file descriptor of a connected socket. It must be closed, once, before that descriptor is.
"""

from __future__ import annotations

import hashlib
from typing import Any

from mandos_tx.core.client import KeyID
from mandos_tx.wire.gnutls_abi import ffi

LIBRARY = "libgnutls.so.30"
OLDEST = "3.6.6"
DEFAULT_PRIORITY = "SECURE128:!CTYPE-X.509:+CTYPE-RAWPK:!RSA:!VERS-ALL:+VERS-TLS1.3:%PROFILE_ULTRA"

# enum values and macros of <gnutls/gnutls.h>, which ABI mode cannot read
_SERVER, _CLIENT = 1 << 0, 1 << 1
_NONBLOCK, _NO_SIGNAL, _NO_TICKETS, _KEY_SHARE_TOP, _ENABLE_RAWPK = 1 << 3, 1 << 6, 1 << 10, 1 << 11, 1 << 18
_CRD_CERTIFICATE = 1
_CTYPE_PEERS, _CRT_RAWPK = 3, 3
_X509_FMT_PEM = 1
_SHUT_WR = 1
_E_FATAL_ALERT_RECEIVED, _E_AGAIN, _E_PREMATURE_TERMINATION = -12, -28, -110

MAX_RECORD = 16384
"""Bytes of content in one TLS record (RFC 8446, 5.1)."""


MAX_HANDSHAKE_MESSAGE = 8192
"""Bytes of one handshake message that are held while it is incomplete: raw public keys are short, attackers are not."""


class GnuTLSError(Exception):
    """The library refused or failed; the text is gnutls_strerror(3)'s, with the name of an alert that was received."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class PriorityError(ValueError):
    """A priority string that gnutls_priority_init(3) does not take; says from where on."""


class UnusableKey(ValueError):
    """The key files are not a pair of PEM keys that GnuTLS can use."""


class ConnectionEnded(Exception):
    """The peer closed the connection without saying so in TLS."""


def load(name: str = LIBRARY, oldest: str = OLDEST) -> Any:
    """Load the library, or raise OSError with a sentence."""
    try:
        # never unloaded: at the interpreter's end it must outlive the objects that have to be freed by it
        library = ffi.dlopen(name, ffi.RTLD_NOW | ffi.RTLD_NODELETE)
    except OSError as error:
        raise OSError(f"GnuTLS ({name}, Debian package libgnutls30) cannot be loaded: {error}") from None
    if library.gnutls_check_version(oldest.encode()) == ffi.NULL:
        raise OSError(f"GnuTLS {oldest} or later is needed for raw public keys, this is {_version(library)}")
    return library


def _version(library: Any) -> str:
    return _text(library.gnutls_check_version(ffi.NULL))


def _text(string: Any) -> str:
    return ffi.string(string).decode("ascii", "replace") if string else "unknown"


_lib = load()


def version() -> str:
    return _version(_lib)


def _check(code: int) -> None:
    if code < 0:
        raise GnuTLSError(code, _text(_lib.gnutls_strerror(code)))


class Context:
    """What many sessions share: one end's role, its key if it has one, and the priority string.

    The Mandos server is the TLS client and has no key. Raises PriorityError, UnusableKey.
    """

    def __init__(self, priority: str, *, nonblocking: bool = True) -> None:
        self._flags = _CLIENT | _NO_SIGNAL | _ENABLE_RAWPK | _NO_TICKETS | _KEY_SHARE_TOP
        if nonblocking:
            self._flags |= _NONBLOCK
        self._priority = _new_priority(priority)
        self._credentials = _new_credentials()

    @classmethod
    def with_key(cls, priority: str, public_pem: bytes, private_pem: bytes, *, nonblocking: bool = True) -> Context:
        """The end that proves a key, so the TLS server: a Mandos client."""
        context = cls(priority, nonblocking=nonblocking)
        context._flags = (context._flags | _SERVER) & ~(_CLIENT | _KEY_SHARE_TOP)
        with ffi.from_buffer(public_pem) as public, ffi.from_buffer(private_pem) as private:
            code = _lib.gnutls_certificate_set_rawpk_key_mem(
                context._credentials,
                ffi.new("gnutls_datum_t *", {"data": ffi.cast("unsigned char *", public), "size": len(public_pem)}),
                ffi.new("gnutls_datum_t *", {"data": ffi.cast("unsigned char *", private), "size": len(private_pem)}),
                _X509_FMT_PEM,
                ffi.NULL,
                0,
                ffi.NULL,
                0,
                0,
            )
        if code < 0:
            raise UnusableKey(_text(_lib.gnutls_strerror(code)))
        return context

    def session(self, descriptor: int) -> Session:
        """Begin TLS on a connected socket."""
        cell = ffi.new("gnutls_session_t *")
        _check(_lib.gnutls_init(cell, self._flags))
        pointer = cell[0]
        try:
            _check(_lib.gnutls_priority_set(pointer, self._priority))
            _check(_lib.gnutls_credentials_set(pointer, _CRD_CERTIFICATE, self._credentials))
        except GnuTLSError:
            _lib.gnutls_deinit(pointer)
            raise
        _lib.gnutls_handshake_set_max_packet_length(pointer, MAX_HANDSHAKE_MESSAGE)
        _lib.gnutls_transport_set_int2(pointer, descriptor, descriptor)
        return Session(pointer, self)


def _new_priority(text: str) -> Any:
    cell = ffi.new("gnutls_priority_t *")
    position = ffi.new("const char **")
    encoded = ffi.new("char[]", text.encode("utf-8"))
    code = _lib.gnutls_priority_init(cell, encoded, position)
    if code < 0:
        rest = _text(position[0]) if position[0] else ""
        raise PriorityError(f"{_text(_lib.gnutls_strerror(code))} at {rest!r}")
    return ffi.gc(cell[0], _lib.gnutls_priority_deinit)


def _new_credentials() -> Any:
    cell = ffi.new("gnutls_certificate_credentials_t *")
    _check(_lib.gnutls_certificate_allocate_credentials(cell))
    return ffi.gc(cell[0], _lib.gnutls_certificate_free_credentials)


class Session:
    """One TLS connection. Methods that would block say so by returning False or None."""

    __slots__ = ("_context", "_pointer")

    def __init__(self, pointer: Any, context: Context) -> None:
        self._pointer = pointer
        self._context = context

    def handshake(self) -> bool:
        """Go on with the handshake; True when it is complete. Raises GnuTLSError, ConnectionEnded."""
        while True:
            code = _lib.gnutls_handshake(self._pointer)
            if code >= 0:
                return True
            if code == _E_AGAIN:
                return False
            self._raise_if_fatal(code)

    def peer_key_id(self) -> KeyID | None:
        """The key ID of the raw public key that the peer has proven, or None if it showed anything else.

        A peer that only has an X.509 certificate gets through a handshake under the default priority string.
        """
        if _lib.gnutls_certificate_type_get2(self._pointer, _CTYPE_PEERS) != _CRT_RAWPK:
            return None
        count = ffi.new("unsigned int *")
        keys = _lib.gnutls_certificate_get_peers(self._pointer, count)
        if not keys or not count[0]:
            return None
        return KeyID(hashlib.sha256(ffi.buffer(keys.data, keys.size)).hexdigest().upper())

    def send(self, data: bytes, start: int) -> int | None:
        """Send from ``data[start:]``; how many bytes were taken, or None if none can be now.

        After None the same call must be made again. Nothing is copied but one record.
        """
        content = ffi.from_buffer(data)
        while True:
            sent: int = _lib.gnutls_record_send(self._pointer, content + start, len(data) - start)
            if sent >= 0:
                return sent
            if sent == _E_AGAIN:
                return None
            self._raise_if_fatal(sent)

    def receive(self) -> bytes | None:
        """What has come, at most one record; empty at the peer's close_notify, None if nothing has come yet."""
        room = ffi.new("char[]", MAX_RECORD)
        while True:
            count = _lib.gnutls_record_recv(self._pointer, room, MAX_RECORD)
            if count >= 0:
                return bytes(ffi.buffer(room, count))
            if count == _E_AGAIN:
                return None
            self._raise_if_fatal(count)

    def bye(self) -> bool:
        """Send close_notify; False if it has to be tried again."""
        while True:
            code = _lib.gnutls_bye(self._pointer, _SHUT_WR)
            if code >= 0:
                return True
            if code == _E_AGAIN:
                return False
            self._raise_if_fatal(code)

    def send_alert(self, error: GnuTLSError) -> None:
        """Tell the peer what went wrong, if TLS has a word for it; a failure to do so does not matter."""
        _lib.gnutls_alert_send_appropriate(self._pointer, error.code)

    def close(self) -> None:
        """Free the session; does not touch the socket, and does nothing the second time."""
        if self._pointer is not None:
            _lib.gnutls_deinit(self._pointer)
            self._pointer = None

    def _raise_if_fatal(self, code: int) -> None:
        if not _lib.gnutls_error_is_fatal(code):
            return
        if code == _E_PREMATURE_TERMINATION:
            raise ConnectionEnded
        text = _text(_lib.gnutls_strerror(code))
        if code == _E_FATAL_ALERT_RECEIVED:
            text = f"{text} {_text(_lib.gnutls_alert_get_name(_lib.gnutls_alert_get(self._pointer)))}"
        raise GnuTLSError(code, text)
