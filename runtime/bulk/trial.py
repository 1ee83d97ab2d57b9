"""Items tried in a process apart before a worker reads them: a decoder that ends its process ends no worker then.

A picture or video can be damaged in a way that its decoder does not survive. Ray begins such a worker again and tries
the same shard, which ends in the same way; so after that a run tries first what is left.
"""

import base64
import pickle
from collections.abc import Sequence

from e2e_deploy.runtime.bulk.inputs.item import BulkItem
from e2e_deploy.runtime.bulk.inputs.reading import read_items
from e2e_deploy.system.child import Child, Parent

_MODULE = "e2e_deploy.runtime.bulk.trial"
_child: Child | None = None  # of this worker, for all of its shards


def deadly_items(items: Sequence[BulkItem]) -> dict[int, str]:
    """Those of one order at which the process that read them ended, by their index, and why.

    Raises:
        E2EDeployError: what the reading of any of them would raise here as well, such as a store that is not there.
    """
    global _child
    found: dict[int, str] = {}
    left = list(items)
    while left:
        child = _child = _child or Child(_MODULE)
        child.tell(items=base64.b64encode(pickle.dumps(left)).decode())
        for event in child.events():
            del left[: event["read"]]
            if not left:
                break
        else:
            found[left.pop(0).index] = f"its decoder ended the process ({child.crash().how})"
            child.close()
            _child = None
    return found


def main() -> None:
    """Read what is asked for and say after each item that it was survived."""
    parent = Parent()
    for request in parent.requests():
        with parent.told_of_errors():
            for _ in read_items(
                pickle.loads(base64.b64decode(request["items"])), lambda text: None
            ):
                parent.tell(read=1)


if __name__ == "__main__":
    main()
