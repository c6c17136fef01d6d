"""Tests of ``mandos_tx.wire.listener``; nothing connects but to a loopback address."""

from __future__ import annotations

import errno
import os
import resource
import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.wire.hall import Limits
from mandos_tx.wire.listener import (
    GRACE,
    MOST_ACCEPTS,
    PAUSE,
    CannotListen,
    Endpoint,
    KeyServer,
    inherited_socket,
    open_socket,
)
from tests.fakes import Log
from tests.wire.peers import LINE, Court, Peer

LOOPBACK = Endpoint(address="127.0.0.1", ipv6=False)


class SocketTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = Log()

    def open(self, endpoint: Endpoint) -> socket.socket:
        sock = open_socket(endpoint, self.log.logger())
        self.addCleanup(sock.close)
        return sock

    def refused(self, endpoint: Endpoint) -> CannotListen:
        error: CannotListen = self.assertRaises(CannotListen, open_socket, endpoint, self.log.logger())
        return error

    def test_by_default_it_listens_everywhere_on_both_families(self) -> None:
        sock = self.open(Endpoint())
        self.assertEqual(("::", socket.AF_INET6), (sock.getsockname()[0], sock.family))
        self.assertEqual(0, sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        self.assertEqual(1, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        self.assertNotEqual(0, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        self.assertFalse(sock.get_inheritable())
        self.assertFalse(sock.getblocking())

    def test_an_ipv4_address_is_taken_mapped_or_without_ipv6(self) -> None:
        self.assertEqual("::ffff:127.0.0.1", self.open(Endpoint(address="::FFFF:127.0.0.1")).getsockname()[0])
        self.assertEqual("127.0.0.1", self.open(LOOPBACK).getsockname()[0])
        self.assertEqual("0.0.0.0", self.open(Endpoint(ipv6=False)).getsockname()[0])

    def test_an_address_that_is_none_is_told_with_the_remedy(self) -> None:
        error = self.refused(Endpoint(address="127.0.0.1"))
        self.assertEqual(
            "'127.0.0.1' is not an IPv6 address; write an IPv4 address as ::FFFF:192.0.2.3, or use --no-ipv6",
            str(error),
        )
        self.assertTrue(error.impossible)

    def test_a_link_local_address_needs_an_interface(self) -> None:
        self.assertIn("use --interface", str(self.refused(Endpoint(address="fe80::1"))))
        self.assertIn("'nosuch0' is none", str(self.refused(Endpoint(address="fe80::1%nosuch0"))))
        # this machine does not have that address, but its interface was found
        self.assertIn("Cannot assign", str(self.refused(Endpoint(address="fe80::1234", interface="lo"))))

    def test_a_port_that_is_taken_or_an_address_that_is_not_here_is_told(self) -> None:
        taken = self.open(LOOPBACK).getsockname()[1]
        error = self.refused(Endpoint(address="127.0.0.1", port=taken, ipv6=False))
        self.assertEqual(f"Cannot listen on [127.0.0.1]:{taken}: Address already in use", str(error))
        self.assertFalse(error.impossible or error.denied)
        taken = self.open(Endpoint()).getsockname()[1]
        self.assertEqual(
            f"Cannot listen on port {taken}: Address already in use", str(self.refused(Endpoint(port=taken)))
        )

    def test_an_interface_that_is_not_there_is_complained_of_and_no_more(self) -> None:
        self.open(Endpoint(interface="nosuch0"))
        [line] = self.log.texts(LogLevel.error)
        self.assertRegex(line, r"\ACannot bind to interface nosuch0: .*; listening on all interfaces\Z")

    def test_permission_is_another_matter(self) -> None:
        self.assertTrue(CannotListen("no", OSError(errno.EACCES, "no")).denied)
        self.assertFalse(CannotListen("no", OSError(errno.EADDRINUSE, "no")).denied)

    def test_without_a_descriptor_there_is_no_socket(self) -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limit)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
        error = self.refused(LOOPBACK)
        self.assertEqual("No socket to listen on can be made: Too many open files", str(error))

    def test_an_open_socket_is_taken_over_and_passed_on_to_nobody(self) -> None:
        given = socket.socket()
        self.addCleanup(given.close)
        given.bind(("127.0.0.1", 0))
        given.set_inheritable(True)
        sock = self.open(Endpoint(descriptor=given.fileno()))
        self.assertEqual(given.getsockname(), sock.getsockname())
        self.assertFalse(given.get_inheritable() or sock.get_inheritable())

    def test_what_is_no_tcp_socket_is_not(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            self.assertEqual(
                f"File descriptor {other.fileno()} cannot be listened on: it is not a TCP socket",
                str(self.refused(Endpoint(descriptor=other.fileno()))),
            )
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        self.assertIn("Socket operation on non-socket", str(self.refused(Endpoint(descriptor=reading))))
        for number in (9999, 1 << 40):
            error = self.refused(Endpoint(descriptor=number))
            self.assertIn("Bad file descriptor", str(error))
            self.assertTrue(error.impossible)

    def test_the_service_managers_socket_is_for_the_process_it_names(self) -> None:
        pid = str(os.getpid())
        self.assertEqual(3, inherited_socket({"LISTEN_PID": pid, "LISTEN_FDS": "1"}))
        for environment in ({}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": pid, "LISTEN_FDS": "0"}):
            self.assertIsNone(inherited_socket(environment))


class KeyServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.court = Court(self, Limits(unauthenticated=1000))
        self.court.hall.close()
        self.reactor = self.court.reactor
        self.server = KeyServer(
            self.reactor,
            lambda: open_socket(LOOPBACK, self.court.log.logger()),
            self.court.factory,
            self.court.hall,
            self.court.context,
        )
        self.addCleanup(self.stop)

    def stop(self) -> None:
        stopped = self.server.stopService()
        self.reactor.advance(GRACE)
        self.successResultOf(stopped)

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.server.port))
        self.addCleanup(sock.close)
        return sock

    def test_it_says_where_it_listens_and_serves(self) -> None:
        self.assertEqual((0, -1), (self.server.port, self.server.fileno()))
        self.server.startService()
        self.assertIn(f"Listening on 127.0.0.1:{self.server.port}", self.court.log.texts(LogLevel.info))
        peer = Peer(self.connect())
        self.addCleanup(peer.close)
        peer.socket.setblocking(False)
        peer.send(LINE)
        self.assertGreater(self.server.fileno(), 2)
        self.server.doRead()
        self.court.serve(peer)
        self.assertEqual(b"the secret", peer.heard)
        self.assertEqual([("127.0.0.1")], [address for _, address in self.court.doorman.petitions])

    def test_the_socket_is_opened_once_and_before_root_is_shed(self) -> None:
        self.server.privilegedStartService()
        port = self.server.port
        self.assertNotEqual(0, port)
        self.assertEqual([], self.reactor.getReaders())
        self.server.startService()
        self.assertEqual(port, self.server.port)

    def test_it_takes_as_many_as_came_the_time_before_and_more_if_there_are_more(self) -> None:
        self.server.startService()
        self.server.doRead()
        for _ in range(2 * MOST_ACCEPTS):
            self.connect()
        held = []
        for _ in range(8):
            self.server.doRead()
            held.append(len(self.court.hall))
        self.assertEqual([1, 3, 7, 15, 31, 63, 64, 64], held)
        self.server.doRead()
        self.assertEqual(64, len(self.court.hall))

    def test_without_descriptors_somebody_gives_way(self) -> None:
        self.server.startService()
        first = self.connect()
        self.server.doRead()
        second = self.connect()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        with self.no_more_descriptors(limit):
            self.server.doRead()
        self.assertEqual(1, len(self.court.hall))
        first.setblocking(False)
        self.assertEqual(b"", first.recv(1))
        second.setblocking(False)
        self.assertRaises(BlockingIOError, second.recv, 1)

    def test_when_nobody_can_it_rests_for_a_moment(self) -> None:
        self.server.startService()
        self.connect()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        with self.no_more_descriptors(limit):
            self.server.doRead()
        self.assertEqual(
            ["Cannot accept connections for the moment: Too many open files"], self.court.log.texts(LogLevel.error)
        )
        self.assertNotIn(self.server, self.reactor.getReaders())
        self.reactor.advance(PAUSE)
        self.assertIn(self.server, self.reactor.getReaders())
        self.server.doRead()
        self.assertEqual(1, len(self.court.hall))

    def test_so_it_does_when_the_socket_is_of_no_use_any_more(self) -> None:
        self.server.startService()
        assert self.server._socket is not None
        self.server._socket.shutdown(socket.SHUT_RDWR)
        self.server.doRead()
        self.assertNotIn(self.server, self.reactor.getReaders())
        self.assertEqual(
            ["Cannot accept connections for the moment: Invalid argument"], self.court.log.texts(LogLevel.error)
        )

    def no_more_descriptors(self, limit: tuple[int, int]) -> Any:
        class Limited:
            def __enter__(self) -> None:
                used = max(map(int, os.listdir("/proc/self/fd"))) + 1
                self.fill = [os.dup(0)]
                while self.fill[-1] < used:
                    self.fill.append(os.dup(0))
                resource.setrlimit(resource.RLIMIT_NOFILE, (self.fill[-1] + 1, limit[1]))

            def __exit__(self, *_: object) -> None:
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
                for descriptor in self.fill:
                    os.close(descriptor)

        return Limited()

    def test_a_stop_ends_who_waits_and_lets_deliveries_end(self) -> None:
        self.court.doorman.secret = bytes(1 << 22)
        self.server.startService()
        idle = self.connect()
        peer = Peer(self.connect())
        self.addCleanup(peer.close)
        peer.socket.setblocking(False)
        peer.send(LINE)
        for _ in range(3):
            self.server.doRead()
        self.court.turn(peer, times=4)
        stopped = self.server.stopService()
        self.assertNoResult(stopped)
        idle.setblocking(False)
        self.assertEqual(b"", idle.recv(1))
        self.assertEqual((0, -1), (self.server.port, self.server.fileno()))
        self.court.serve(peer)
        peer.close()
        self.court.pass_time(0.5)
        self.successResultOf(stopped)
        self.assertEqual(1 << 22, len(peer.heard))
        self.assertEqual(["delivered"], self.court.doorman.permits[0].outcomes)
        self.successResultOf(self.server.stopService())

    def test_a_stop_does_not_wait_long_for_them(self) -> None:
        self.court.doorman.secret = bytes(1 << 24)
        self.server.startService()
        peer = Peer(self.connect())
        self.addCleanup(peer.close)
        peer.socket.setblocking(False)
        peer.send(LINE)
        self.server.doRead()
        self.court.turn(peer, times=4)
        stopped: Deferred[None] = self.server.stopService()
        self.court.pass_time(GRACE - 0.25)
        self.assertNoResult(stopped)
        self.court.pass_time(0.5)
        self.successResultOf(stopped)
        self.assertEqual(["abandoned"], self.court.doorman.permits[0].outcomes)

    def test_a_stop_during_a_rest_ends_that(self) -> None:
        self.server.startService()
        assert self.server._socket is not None
        self.server._socket.shutdown(socket.SHUT_RDWR)
        self.server.doRead()
        self.successResultOf(self.server.stopService())
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_the_reactor_may_ask_it_what_it_asks_readers(self) -> None:
        self.assertEqual("key server", self.server.logPrefix())
        self.server.connectionLost(Failure(ZeroDivisionError()))
