"""Who may ask, how much at once, and that nobody gets another's answer or another file."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sites import make_run, served

from gander.errors import UserError
from gander.serving import Networks, Server, answers, server
from gander.serving.answers import Busy, Turns


def line_of(said, code):
    assert said.code == code, said.body
    (line,) = json.loads(said.body).values()
    assert len(line.splitlines()) == 1
    return line


def raw(site, data, *, wait=5.0):
    """All that the server says to these bytes until it hangs up."""
    with socket.create_connection(("127.0.0.1", site.server.port), timeout=wait) as connection:
        connection.sendall(data)
        return everything(connection)


def everything(connection):
    said = b""
    while part := connection.recv(65536):
        said += part
    return said


# Files -------------------------------------------------------------------------------------------------------------------

PAGE = ["/", "/page.css", "/page.js", "/ask.js", "/pad.js", "/explorer.js", "/icon.svg"]


def test_the_page_and_its_files_are_there(site):
    kinds = {site.ask(path).headers["Content-Type"] for path in PAGE}
    assert kinds == {f"{kind}; charset=utf-8" for kind in ("text/html", "text/css", "text/javascript", "image/svg+xml")}
    assert site.ask("/health").body == b'{"ok":true}'


def test_the_page_names_no_other_host_and_only_addresses_that_are_there(site):
    for path in PAGE:
        text = site.ask(path).body.decode()
        assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}
        for found in re.findall(r'(?:src|href|from) ?=?"(/[^"]*)"', text) + re.findall(r'"(/api/[a-z.]+)"', text):
            assert site.ask(found).code == 200, found


@pytest.mark.parametrize(
    "path",
    [
        "/run.json",
        "/../run.json",
        "/..%2frun.json",
        "/%2e%2e/%2e%2e/run.json",
        "/page/../../../run.json",
        "/page.html",
        "//etc/passwd",
        "/etc/passwd",
        "/.%00/etc/passwd",
        "/..\\..\\run.json",
        "/api/../../run.json",
        "/api",
        "/api/",
        "/page.js/",
        "/PAGE.JS",
        "/checkpoints/00000002/manifest.json",
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "/" + "a" * 2000,
    ],
)
def test_no_other_path_leads_anywhere(path, site):
    said = raw(site, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 404 ")
    assert re.fullmatch(r"no page called '.*'; (did you mean|there are).*", json.loads(body)["error"])
    assert b"root:" not in body
    assert b"sagan" not in body


def test_a_file_that_appears_in_the_run_or_the_package_is_not_served(tmp_path):
    with served(Networks(make_run(tmp_path / "run", "dcgan", classes=[]), standing=0)) as site:
        (site.run.folder / "page.css").write_text("stolen")
        (site.run.folder / "secret.txt").write_text("stolen")
        assert b"stolen" not in site.ask("/page.css").body
        assert site.ask("/secret.txt").code == 404


# Who may ask -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "127.0.0.1:8765", "[::1]:80", "[::1]", "127.9.9.9"])
def test_this_machine_by_any_of_its_names_may(host, site):
    assert site.ask("/health", Host=host).code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "[::2]",
        "",
        "::1",
        "a@localhost",
    ],
)
def test_a_strangers_name_that_leads_here_may_not(host, site):
    for path in ("/health", "/", "/api/run"):
        assert "this page is for this machine alone" in line_of(site.ask(path, Host=host), 403)


@pytest.mark.parametrize("whence", ["cross-site", "same-site"])
def test_another_sites_page_may_not_ask_but_may_link(whence, site):
    assert "another page may not ask here" in line_of(site.ask("/api/samples", Sec_Fetch_Site=whence), 403)
    assert site.ask("/", Sec_Fetch_Site=whence).code == 200
    assert site.ask("/api/samples", Sec_Fetch_Site="same-origin").code == 200


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/run", "/api/samples", "/health", "/nowhere", "/api/samples?seed=x"])
def test_every_answer_is_closed_to_other_sites_and_never_guessed_at(path, site):
    headers = site.ask(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers
    assert not {"Server", "Set-Cookie"} & set(headers)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/api/samples", 405),
        ("POST", "/", 405),
        ("PUT", "/api/look", 501),
        ("OPTIONS", "/api/look", 501),
        ("DELETE", "/", 501),
    ],
)
def test_other_methods_are_refused(method, path, code, site):
    said = site.ask(path, method, b"")
    assert line_of(said, code)
    assert code != 405 or said.headers["Allow"] == "GET"


# How much ----------------------------------------------------------------------------------------------------------------


def test_a_head_that_has_no_end_is_refused(site):
    said = raw(site, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 90 + b"B: " + b"c" * 40_000 + b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.0 431 ")
    assert raw(site, b"GET /" + b"a" * 40_000).startswith(b"HTTP/1.0 431 ")
    assert raw(site, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n").startswith(b"HTTP/1.0 431 ")
    assert raw(site, b"\x16\x03\x01 what is this\r\n\r\n").startswith((b"HTTP/1.0 400 ", b'{"error"'))


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ("", 411),
        ("Content-Length: many\r\n", 411),
        ("Content-Length: -5\r\n", 411),
        ("Transfer-Encoding: chunked\r\n", 411),
        (f"Content-Length: {answers.MAX_IMAGE + 1}\r\n", 413),
        ("Content-Length: 999999999999\r\n", 413),
    ],
)
def test_a_body_of_unknown_or_too_great_length_is_not_read(head, code, site):
    said = raw(site, f"POST /api/look HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
    assert said.startswith(f"HTTP/1.0 {code} ".encode()), said


def test_a_body_that_ends_early_is_refused(site):
    with socket.create_connection(("127.0.0.1", site.server.port), timeout=5) as connection:
        connection.sendall(b"POST /api/look HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
        connection.shutdown(socket.SHUT_WR)
        assert b"the body ended after 3 of 100 bytes" in everything(connection)


def test_one_who_says_nothing_is_hung_up_on_and_others_are_heard(site, monkeypatch):
    monkeypatch.setattr(server, "ASKING", 0.5)
    with socket.create_connection(("127.0.0.1", site.server.port), timeout=10) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert site.ask("/health").code == 200
        assert slow.recv(100) == b""


def test_more_connections_than_there_may_be_are_told_to_come_again(site, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    held = [socket.create_connection(("127.0.0.1", site.server.port), timeout=10) for _ in range(3)]
    try:
        end = time.monotonic() + 10
        while site.server._open < 3 and time.monotonic() < end:
            time.sleep(0.01)
        with socket.create_connection(("127.0.0.1", site.server.port), timeout=10) as one_more:
            assert one_more.recv(1000).startswith(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1")
    finally:
        for connection in held:
            connection.close()
    while site.server._open and time.monotonic() < end:
        time.sleep(0.01)
    assert site.ask("/health").code == 200


# Several at once ---------------------------------------------------------------------------------------------------------


def test_answers_of_several_at_once_do_not_mix(site):
    asked = [f"/api/{what}seed={seed}" for seed in range(6) for what in ("samples?count=4&", "look?index=3&", "between.png?x=0.3&")]
    alone = {path: site.ask(path).body for path in asked}
    assert len(set(alone.values())) == len(asked)
    with ThreadPoolExecutor(8) as pool:
        for path, said in zip(asked * 3, pool.map(site.ask, asked * 3), strict=True):
            assert said.code == 200
            assert said.body == alone[path], path


@pytest.fixture
def stuck(site, monkeypatch):
    """The networks wait for the event that this gives."""
    go, samples = threading.Event(), site.networks.samples

    def slow(*args):
        go.wait(20)
        return samples(*args)

    monkeypatch.setattr(site.networks, "samples", slow)
    yield go
    go.set()


def test_while_the_networks_are_busy_the_page_is_there_and_a_long_queue_is_refused(site, stuck, monkeypatch):
    monkeypatch.setattr(site.server.turns, "most", 2)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(site.ask, "/api/samples") for _ in range(2)]
        end = time.monotonic() + 10
        while site.server.turns.asking < 2 and time.monotonic() < end:
            time.sleep(0.01)
        for path in ("/health", "/", "/api/run"):
            assert site.ask(path).code == 200
        said = site.ask("/api/samples")
        assert "ask again in a second" in line_of(said, 503)
        assert said.headers["Retry-After"] == "1"
        assert site.ask("/api/samples?seed=x").code == 400  # needs no turn
        stuck.set()
        assert [future.result().code for future in waiting] == [200, 200]
    assert site.ask("/api/samples").code == 200


def test_archives_are_made_two_at_a_time(site, stuck):
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(site.ask, "/api/samples.zip?count=2") for _ in range(2)]
        end = time.monotonic() + 10
        while site.server.turns.asking < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert site.ask("/api/samples.zip?count=2").code == 503
        stuck.set()
        assert [future.result().code for future in waiting] == [200, 200]
    assert site.ask("/api/samples.zip?count=2").code == 200


def test_turns_go_in_order_one_at_a_time_and_what_has_begun_goes_on():
    turns, order, go = Turns(most=3), [], threading.Event()
    first = threading.Thread(target=turns, args=(go.wait, 10))
    first.start()
    others = []
    for i in range(2):
        while turns.asking < 1 + i:
            time.sleep(0.001)
        others.append(threading.Thread(target=turns, args=(order.append, i)))
        others[-1].start()
    while turns.asking < 3:
        time.sleep(0.001)
    with pytest.raises(Busy):
        turns(order.append, "refused")
    last = threading.Thread(target=turns, args=(order.append, "begun"), kwargs={"begun": True})
    last.start()
    while turns.asking < 4:
        time.sleep(0.001)
    go.set()
    for thread in (first, *others, last):
        thread.join(10)
    assert order == [0, 1, "begun"]
    with pytest.raises(ZeroDivisionError):
        turns(lambda: 1 / 0)
    assert turns.asking == 0
    turns.close()


def test_our_own_mistake_is_500_and_keeps_its_traceback(site, monkeypatch, capsys):
    monkeypatch.setattr(site.networks, "samples", lambda *args: 1 / 0)
    assert line_of(site.ask("/api/samples"), 500) == "gander made a mistake here, which its terminal tells"
    assert "ZeroDivisionError" in capsys.readouterr().err


# From the command line ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port": 65536}, "--port 65536 is not from 0 to 65,535"),
        ({"port": -1}, "--port -1 is not"),
        ({"host": "no such host."}, "--host no such host. is no address of this machine"),
        ({"host": "192.0.2.1"}, "port 0 of 192.0.2.1 cannot be had"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused(options, words):
    with pytest.raises(UserError, match=words) as caught:
        Server(**options)
    assert len(str(caught.value).splitlines()) == 1


def test_a_port_that_is_taken_is_refused(site):
    with pytest.raises(UserError, match=f"port {site.server.port} of 127.0.0.1 cannot be had .*; --port 0 takes a free one"):
        Server(port=site.server.port)


def test_a_server_for_all_takes_any_name(run):
    """With --host 0.0.0.0 it is reached by names that nobody here knows."""
    one = Server("0.0.0.0")
    assert not one.local
    one.server_close()
    local = Server("localhost")
    assert local.local
    local.server_close()


def test_words_of_the_command_line(say, tmp_path):
    folder = make_run(tmp_path / "run").folder
    for flags, words in (("--step 7", "no checkpoint of step 7; there are: 2"), ("--port 99999", "--port 99999 is not")):
        code, _, err = say(f"serve {folder} {flags} --device cpu")
        assert (code, err.count("\n")) == (2, 1)
        assert words in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_with_a_line(number, run):
    words = [sys.executable, "-m", "gander", "serve", str(run.folder), "--port", "0", "--device", "cpu", "--standing", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        first = process.stdout.readline()
        port = int(re.search(r"step 2: http://127\.0\.0\.1:(\d+)/  \(Ctrl-C ends it\)", first)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.0 200 OK")
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "the page is closed\n", "")
