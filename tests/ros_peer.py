"""ROS 2 messages as another library reads them."""

from mcap.records import Schema
from mcap_ros2.decoder import DecoderFactory

from e2e_deploy.runtime.ros import cdr


def peer(raw, type_name):
    """A message as mcap-ros2-support reads its bytes, by our definition."""
    schema = Schema(
        id=1, name=type_name, encoding="ros2msg", data=cdr.definition(type_name).encode()
    )
    return DecoderFactory().decoder_for("cdr", schema)(raw)
