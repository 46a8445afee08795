"""Makes a certificate for your own Dask cluster, so that only its scheduler, workers and driver can connect.

    eval "$(python workflows/certificates.py certificates)"     makes it once, tells Dask of it by the environment

Whoever holds the files of the folder can run code as you: keep it to yourself (the files are readable by you alone),
where all nodes see it. Scheduler, workers and driver need the same environment. The certificate ends after a year:
then remove the folder.
"""

import os
import shlex
import sys
from pathlib import Path


def make(folder: Path) -> tuple[Path, Path]:
    """The files of the certificate and of its key; made if they are not there."""
    from distributed.security import Security

    certificate, key = folder.resolve() / "dask.crt", folder.resolve() / "dask.key"
    if not (certificate.exists() and key.exists()):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Security.temporary()
        for path, text in ((certificate, made.tls_ca_file), (key, made.tls_client_key)):
            path.unlink(missing_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
    return certificate, key


def environment(certificate: Path, key: Path) -> dict[str, str]:
    """What tells Dask to talk by TLS alone, with this certificate."""
    files = {"TLS__CA_FILE": str(certificate), "REQUIRE_ENCRYPTION": "True", "DEFAULT_SCHEME": "tls"}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        files |= {f"TLS__{role}__CERT": str(certificate), f"TLS__{role}__KEY": str(key)}
    return {f"DASK_DISTRIBUTED__COMM__{name}": value for name, value in files.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, value in environment(*make(Path(sys.argv[1]))).items():
        print(f"export {name}={shlex.quote(value)}")
