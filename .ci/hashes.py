"""A report of pip (`pip install --report`) -> requirements with the SHA-256 of every file that it would install."""

import json
import sys

for one in sorted(json.load(open(sys.argv[1]))["install"], key=lambda one: one["metadata"]["name"].lower()):
    if sha256 := one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256"):
        print(f"{one['metadata']['name']}=={one['metadata']['version']} --hash=sha256:{sha256}")
