"""Processes that torchrun starts again meet in a store of their own."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import torch.distributed as dist

from divdet.engine.launch import _store_of_this_start


def test_a_restart_finds_nothing_of_the_processes_before() -> None:
    limit = timedelta(seconds=60)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for _ in range(3):
        clients = [dist.TCPStore("127.0.0.1", store.port, is_master=False, timeout=limit) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            stores = list(pool.map(_store_of_this_start, clients, range(4), [4] * 4))
        assert not stores[0].check(["address"])
        stores[1].set("address", "new")
        assert [own.get("address") for own in stores] == [b"new"] * 4  # `get` waits: `set` returns before it is seen
