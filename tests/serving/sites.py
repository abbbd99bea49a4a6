"""Small runs that nobody trained, and servers of them."""

import http.client
import threading
from contextlib import contextmanager
from typing import NamedTuple

import torch

from gander import recipes
from gander.recipes.experiment import Facts
from gander.run import Run
from gander.serving import Server
from gander.train import checkpoint

CLASSES = ["cats", "dogs", "<b>&é"]


def make_run(folder, recipe="sagan_official", classes=CLASSES, **knobs):
    facts = Facts(10, len(classes), 3)
    resolved = recipes.resolve(recipes.load(recipe), {"resolution": 16, "width": 2, "steps": 2, "batch": 4, **knobs})
    described = {"recipe": recipe, "knobs": resolved, "facts": vars(facts), "classes": classes, "seed": 0}
    run = Run.start(folder, described)[0]
    torch.manual_seed(1)
    networks = recipes.load(recipe)(facts, **resolved).networks
    with torch.no_grad():
        for network in networks.values():
            for name, parameter in network.named_parameters():
                if name.endswith("gamma"):
                    parameter.fill_(0.5)
                elif parameter.dim() > 1:  # or all images are grey, all classes alike and all maps even
                    parameter.mul_(3).add_(torch.randn_like(parameter), alpha=0.1)
    checkpoint.save(run.checkpoints, 2, networks, {})
    return run


class Said(NamedTuple):
    code: int
    headers: dict
    body: bytes


class Site:
    """A server that runs in a thread, and how to ask it."""

    def __init__(self, server, networks):
        self.server, self.networks, self.run, self.url = server, networks, networks.run, server.url

    def ask(self, path, method="GET", body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Said(answer.status, dict(answer.headers), answer.read())
        finally:
            connection.close()


@contextmanager
def served(networks):
    server, asked = Server(), [0]
    server.load(networks)
    thread = threading.Thread(target=server.run, args=(asked,))
    thread.start()
    try:
        yield Site(server, networks)
    finally:
        asked[0] = 1
        thread.join(10)
