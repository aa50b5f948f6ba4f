"""What clients get over a socket, whatever they and the detector do; around a detector that waits when a test wants."""

import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from divdet.engine.errors import UserError
from divdet.serving.sockets import bind
from tests.divdet.serving.services import gather, stub_service, wait_for


def post(service: SimpleNamespace, content: bytes, **options: Any) -> httpx.Response:
    return httpx.post(f"{service.address}/predict", content=content, timeout=30, trust_env=False, **options)


def in_background(service: SimpleNamespace, contents: list[bytes]) -> tuple[threading.Thread, list[Any]]:
    """Posts at the same time, in a thread; its answers come into the list when it has ended."""
    answers: list[Any] = []
    requests = [{"content": content} for content in contents]
    thread = threading.Thread(target=lambda: answers.extend(gather(service.address, requests)))
    thread.start()
    return thread, answers


def connect(service: SimpleNamespace) -> socket.socket:
    host, port = service.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_a_full_queue_says_429_and_all_that_were_accepted_are_answered() -> None:
    with stub_service(queue=4, max_batch=2) as service:
        service.runner.open.clear()
        thread, answers = in_background(service, [bytes([number]) for number in range(4)])
        wait_for(lambda: service.batcher.full)
        refused = post(service, b"x")
        service.runner.open.set()
        thread.join(20)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert "4 images are waiting" in refused.json()["error"]
        scores = [answer.json()["detections"][0]["score"] for answer in answers]
        assert scores == [number / 256 for number in range(4)]
        assert post(service, b"x").status_code == 200


def test_too_many_bytes_on_their_way_say_429() -> None:
    with stub_service(queue=100) as service:  # of 100 kB; 50 times as much is held
        service.runner.open.clear()
        thread, answers = in_background(service, [bytes(90_000)] * 55)
        wait_for(lambda: service.batcher._held == 55)
        assert post(service, bytes(90_000)).status_code == 429
        service.runner.open.set()
        thread.join(20)
        assert {answer.status_code for answer in answers} == {200}
        assert post(service, bytes(90_000)).status_code == 200  # nothing is held any more


def test_an_answer_that_takes_too_long_is_503_and_what_has_not_begun_is_dropped() -> None:
    with stub_service(timeout=0.5, max_batch=1) as service:
        service.runner.open.clear()
        thread, answers = in_background(service, [b"a", b"b"])
        thread.join(20)
        assert [answer.status_code for answer in answers] == [503, 503]
        assert "in time" in answers[0].json()["error"]
        service.runner.open.set()
        assert post(service, b"c").status_code == 200
        assert len(service.runner.seen) == 2  # one of the two, and c


def test_a_client_that_goes_away_leaves_the_queue() -> None:
    with stub_service(max_batch=1) as service:
        service.runner.open.clear()
        thread, answers = in_background(service, [b"a"])
        wait_for(lambda: service.runner.seen == [[b"a"]])
        with connect(service) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nb")
            wait_for(lambda: len(service.batcher._waiting) == 1)
        wait_for(lambda: service.guard.active == 1)
        service.runner.open.set()
        thread.join(20)
        assert answers[0].status_code == 200
        assert post(service, b"c").status_code == 200
        assert service.runner.seen == [[b"a"], [b"c"]]
        text = httpx.get(f"{service.address}/metrics", trust_env=False).text
        assert "divdet_dropped_images_total 1.0" in text
        assert 'divdet_requests_total{path="/predict",status="499"} 1.0' in text


def test_an_unexpected_failure_is_500_for_its_image_alone() -> None:
    with stub_service(max_batch=4) as service:
        service.runner.open.clear()
        thread, answers = in_background(service, [b"a", b"boom", b"b"])
        wait_for(lambda: service.batcher._held == 3)
        service.runner.open.set()
        thread.join(20)
        assert sorted(answer.status_code for answer in answers) == [200, 200, 500]
        assert answers[1].json() == {"error": "RuntimeError in the service: its log says more"}
        assert post(service, b"c").status_code == 200


def test_health_says_when_all_images_fail() -> None:
    with stub_service() as service:
        assert [post(service, b"boom").status_code for _ in range(3)] == [500] * 3
        health = httpx.get(f"{service.address}/health", trust_env=False)
        assert (health.status_code, health.json()) == (503, {"status": "failing"})
        assert post(service, b"a").status_code == 200
        assert httpx.get(f"{service.address}/health", trust_env=False).json() == {"status": "ready"}


def test_a_slow_upload_is_408_and_stops_nobody() -> None:
    with stub_service(timeout=1) as service, connect(service) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab")
        assert post(service, b"c").status_code == 200
        assert slow.recv(99).startswith(b"HTTP/1.1 408 ")


def test_slow_heads_and_clients_that_do_not_read_are_cut_off() -> None:
    with stub_service(patience=0.3) as service, connect(service) as silent, connect(service) as slow:
        slow.sendall(b"POST /predict HTT")
        began = time.monotonic()
        assert slow.recv(9) == b""
        assert silent.recv(9) == b""
        assert time.monotonic() < began + 10
        with connect(service) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wait_for(lambda: _asks_until_stuck(deaf))
            assert post(service, b"c").status_code == 200
            wait_for(lambda: service.guard.active == 0)


def _asks_until_stuck(client: socket.socket) -> bool:
    """Asks for more than the connection's buffers hold, without reading; True once it was cut off."""
    try:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    except (ConnectionError, TimeoutError):
        return True
    return False


def test_a_service_that_stops_refuses_new_requests_and_answers_the_others() -> None:
    with stub_service(max_batch=1) as service:
        service.runner.open.clear()
        thread, answers = in_background(service, [b"a", b"b"])
        wait_for(lambda: service.batcher._held == 2)
        service.guard.draining = True
        assert httpx.get(f"{service.address}/health", trust_env=False).status_code == 503
        refused = post(service, bytes(90_000))
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert "stopping" in refused.json()["error"]
        service.runner.open.set()
        thread.join(20)
        assert [answer.status_code for answer in answers] == [200, 200]


@pytest.mark.parametrize(
    ("request_", "status", "named"),
    [
        ({"content": bytes(100_001)}, 413, "more than 100000 bytes"),
        ({"content": iter([bytes(60_000)] * 2)}, 413, "more than 100000 bytes"),  # chunked: no length is declared
        ({"files": {"file": ("a.png", bytes(100_001))}}, 413, "more than 100000 bytes"),
        ({"files": {"file": ("a.png", bytes(200_000))}}, 413, "more than 100000 bytes"),
        ({"content": bytes(100_001), "headers": {"content-type": ""}}, 413, "more than 100000 bytes"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "the body is text/plain"),
        ({"data": {"file": "x"}}, 415, "x-www-form-urlencoded"),
        ({"content": b"x", "headers": {"content-encoding": "gzip"}}, 415, "gzip"),
        ({"files": {"file": ("a.txt", b"x", "text/plain")}}, 415, "the file is text/plain"),
        ({"files": {"image": ("a.png", b"x")}}, 422, "the form has image: "),
        ({"files": [("file", ("a", b"x")), ("file", ("b", b"x"))]}, 422, "Too many files"),
        ({"files": {"file": ("a.png", b"x")}, "data": {"score_threshold": "1"}}, 422, "score_threshold (text)"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422, "boundary"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 422, "form"),
        ({"content": b"x", "params": {"score_threshold": "nan"}}, 422, "score_threshold is 'nan'"),
        ({"content": b"x", "params": {"score_threshold": "1.1"}}, 422, "score_threshold is '1.1'"),
        ({"content": b"x", "params": {"member": "true"}}, 422, "did you mean members?"),
        ({"content": b"x", "params": {"classes": ["a", "b"]}}, 422, "classes is given more than once"),
        ({"content": b"x", "params": {"members": "perhaps"}}, 422, "members is 'perhaps'"),
    ],
)
def test_each_refusal_has_its_status_and_a_line(
    service: SimpleNamespace, request_: dict[str, Any], status: int, named: str
) -> None:
    answer = httpx.post(f"{service.address}/predict", timeout=20, trust_env=False, **request_)
    assert answer.status_code == status
    assert named in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert service.batcher._held == 0


@pytest.fixture(scope="module")
def service() -> Any:
    with stub_service() as running:
        yield running


def test_other_addresses(service: SimpleNamespace) -> None:
    with httpx.Client(base_url=service.address, trust_env=False) as client:
        assert client.get("/health").json() == {"status": "ready"}
        assert client.head("/health").status_code == 200
        assert client.get("/info").json() == {"model": "stub"}
        assert next(iter(client.get("/").json())) == "POST /predict"
        assert client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"].keys() == {
            "multipart/form-data",
            "image/*",
            "application/octet-stream",
        }
        assert (client.get("/predict").status_code, client.get("/docs").status_code) == (405, 404)
        assert client.get("/docs").json() == {"error": "/docs: Not Found"}
        assert client.post("/predict/", content=b"x").json() == {"error": "/predict/: Not Found"}


def test_a_body_longer_than_declared_is_no_second_image(service: SimpleNamespace) -> None:
    with connect(service) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n" + b"a" * 70_000)
        client.settimeout(20)
        received = b""
        while piece := client.recv(2**16):
            received += piece
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 400 " in received


def test_a_port_that_is_taken_is_said() -> None:
    taken = bind("127.0.0.1", 0)
    with taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use"):
            bind("127.0.0.1", port)
    with pytest.raises(UserError, match="nowhere"):
        bind("nowhere.invalid", 0)
