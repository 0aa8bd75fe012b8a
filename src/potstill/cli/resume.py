"""`potstill resume RUN`: go on where a run was stopped."""

from potstill.cli.options import AsJson, RankTimeout, RunFolder, TrustRemoteCode
from potstill.cli.output import emit, working


def resume(
    run: RunFolder,
    trust_remote_code: TrustRemoteCode = False,
    rank_timeout: RankTimeout = 600.0,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was stopped. It continues from its last complete checkpoint."""
    with working():
        from potstill import still

        record = still.resume(run, trust_remote_code=trust_remote_code, rank_timeout=rank_timeout)
    from potstill.cli.summary import record_text, record_values

    emit(record_text(record), record_values(record), as_json=as_json)
