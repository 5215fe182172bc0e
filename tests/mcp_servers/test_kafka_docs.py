"""`docs/kafka.md` names every setting with its default. `tests/documents` runs its commands."""

import re
from pathlib import Path

from app.services.kafka.settings import KafkaSettings

PAGE = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text()


def test_the_settings_of_the_page_exist_with_their_defaults() -> None:
    rows = re.findall(r"^\| `KAFKA_(\w+)` \| (\S+) \|", PAGE, re.MULTILINE)
    fields = {name.upper(): field for name, field in KafkaSettings.model_fields.items()}
    for name, said in rows:
        default = fields[name].default
        shown = {None: "derived", True: "true", False: "false"}.get(default, str(default))
        assert said.strip("`") == shown, name
    shown_elsewhere = set(re.findall(r"^KAFKA_(\w+)=", PAGE, re.MULTILINE)) | {"BOOTSTRAP_SERVERS"}
    assert {name for name, _ in rows} | shown_elsewhere == fields.keys()
