"""The notes of a release: what changed, what was published, and how to verify it."""

from collections.abc import Mapping, Sequence

from coding_agent_release.signing import verify_command, verify_sbom_command


def write(changes: str, references: Mapping[str, str], *, flags: Sequence[str], sbom: bool) -> str:
    """The notes, as Markdown.

    Args:
        changes: what CHANGELOG.md says.
        references: of the chart and of each image its name with its digest.
        flags: the flags of cosign that say who must have signed.
        sbom: whether cosign has a statement of what each image consists of.
    """
    rows = "".join(f"| {name} | `{reference}` |\n" for name, reference in references.items())
    commands = [verify_command(reference, flags) for reference in references.values()]
    if sbom:
        commands += [
            verify_sbom_command(reference, flags) for name, reference in references.items() if name != "chart"
        ]
    return (
        f"{changes}\n## What was published\n\n|  | name and digest |\n|---|---|\n{rows}"
        f"\n## Verify it\n\n```sh\n{chr(10).join(commands)}\n```\n"
    )
