"""``sae-guard release``."""

from __future__ import annotations

from pathlib import Path

import click

from sae_guard.cli.output import write_whole


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--as", "version", required=True, metavar="VERSION", help="The version, such as v2.0."
)
@click.option(
    "--formerly",
    multiple=True,
    metavar="NEW=OLD",
    help="A member that was called OLD in the version before; repeatable.",
)
@click.option(
    "--removed",
    multiple=True,
    metavar="NAME",
    help="A member of the version before that this one does not have on purpose; repeatable.",
)
@click.option("--force", is_flag=True, help="Replace the manifest that is there.")
def release(
    folder: Path, version: str, formerly: tuple[str, ...], removed: tuple[str, ...], *, force: bool
) -> None:
    """Write the manifest of a release: FOLDER/sae_release.yaml.

    It lists every checkpoint below FOLDER as a member, by its path. The names are those that
    reports, records and baselines use, whatever the folder is called and whatever else runs.
    """
    from sae_guard.history import check_name
    from sae_guard.release.manifest import FILE_NAME, Manifest, check, to_yaml
    from sae_guard.release.members import below

    check_name(version)
    file = folder / FILE_NAME
    if file.exists() and not force:
        raise click.ClickException(f"{file} is there already; --force replaces it")
    renamed: dict[str, str] = {}
    for text in formerly:
        new, sign, old = text.partition("=")
        if not (sign and new and old):
            raise click.UsageError(f"--formerly {text!r}: expected NEW=OLD")
        renamed[new] = old
    members = {
        member.name: member.checkpoint.path.relative_to(folder).as_posix()
        for member in below(folder)
    }
    manifest = Manifest(file, version, members, renamed, removed)
    check(manifest)
    write_whole(file, to_yaml(manifest).encode())
    noun = "member" if len(members) == 1 else "members"
    click.echo(f"{file}: {version}, {len(members)} {noun}")
    for name in members:
        click.echo(f"  {name}")
