"""Wall: secrets in logs. None that the attempt knows gets into its log, whose last lines everybody reads."""

import io
import logging
from pathlib import Path

import pytest
from coding_agent_consumer.transcripts.transcript import scrub_for, scrub_logs
from coding_agent_core.runtime.telemetry import configure
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.reading import Logging

TOKEN, S3_KEY, MODEL = 'ghp_"0123456789', "s3-secret-0123456789", "sk-model-0123456789"
SETTINGS = Settings.model_validate(
    {
        "github": {"personal_access_token": TOKEN},
        "llm": {"openai": {"api_key": MODEL}},
        "context_storage": {
            "s3": {"bucket": "agent-logs", "access_key_id": "AKIDEXAMPLE1", "secret_access_key": S3_KEY}
        },
    }
)


pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_lines_and_tracebacks_are_without_secrets(form: str) -> None:
    stream = io.StringIO()
    configure(Logging.model_validate({"format": form}), stream=stream)
    scrub_logs(scrub_for(SETTINGS, {}))
    logger = logging.getLogger("coding_agent.test")
    logger.warning("Cloning https://bot:%s@forge.example", TOKEN)
    try:
        raise RuntimeError(f"no such key {S3_KEY}")
    except RuntimeError:
        logger.exception("It failed with %s", MODEL)
    text = stream.getvalue()
    assert "Cloning https://bot:***@forge.example" in text
    assert "RuntimeError: no such key ***" in text
    for secret in (TOKEN, S3_KEY, MODEL, "AKIDEXAMPLE1", "ghp_"):
        assert secret not in text


def test_a_secret_that_was_replaced_is_taken_out_like_the_one_before_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    settings = Settings.model_validate({"github": {"personal_access_token": {"files": [str(file)]}}})
    scrub = scrub_for(settings, {})
    new = "ghp_the-token-of-the-next-hour"
    file.write_text(new)
    assert scrub(f"{TOKEN} {new}") == "*** ***"
    file.unlink()
    logging.getLogger().addHandler(handler := logging.StreamHandler(stream := io.StringIO()))
    try:
        scrub_logs(scrub)
        assert scrub(f"{TOKEN} {new}") == "*** ***", "also when it cannot be read"
    finally:
        logging.getLogger().removeHandler(handler)
    assert stream.getvalue().count("Cannot read the secret file") == 1
