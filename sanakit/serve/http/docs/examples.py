"""Commands to copy for every address of the API, in an order in which each finds what it needs.

They are for a shell with curl and Python. START is typed first; `{address}` in it is the server's.
"""

from __future__ import annotations

START = """\
SANA={address}
KEY=none    # any word, unless the server has keys: sana keys create
ask() {{ curl -sS -H "Authorization: Bearer $KEY" "$@"; }}
take() {{ python3 -c 'import json, sys
found = json.load(sys.stdin)
for key in sys.argv[1:]: found = found[int(key) if key.isdigit() else key]
print(found)' "$@"; }}
"""

# (method, path as in the schema) -> what to type
EXAMPLES: dict[tuple[str, str], str] = {
    ("post", "/v1/images/generations"): """\
IMAGE=$(ask "$SANA/v1/images/generations" -H "Content-Type: application/json" \\
    -d '{"prompt": "a red apple", "seed": 7, "response_format": "url"}' | take data 0 url)
""",
    ("get", "/v1/pictures/{name}"): """\
ask -o apple.png "$IMAGE"
""",
    ("post", "/v1/images/edits"): """\
EDITED=$(ask "$SANA/v1/images/edits" -F image=@apple.png -F prompt="a green apple" -F strength=0.7 \\
    -F response_format=url | take data 0 url)
ask -o green.png "$EDITED"
""",
    ("post", "/v1/jobs"): """\
JOB=$(ask "$SANA/v1/jobs" -H "Content-Type: application/json" -H "Idempotency-Key: owls-$$" \\
    -d '{"prompt": "an owl", "n": 2, "seed": 20}' | take id)
""",
    ("post", "/v1/jobs/edits"): """\
ask "$SANA/v1/jobs/edits" -F image=@apple.png -F prompt="a green apple" -F strength=0.7
""",
    ("get", "/v1/jobs"): """\
ask "$SANA/v1/jobs?limit=10"
""",
    ("get", "/v1/jobs/{job_id}"): """\
ask "$SANA/v1/jobs/$JOB"
""",
    ("delete", "/v1/jobs/{job_id}"): """\
ask -X DELETE "$SANA/v1/jobs/$JOB"
""",
    ("post", "/v1/videos"): """\
VIDEO=$(ask "$SANA/v1/videos" -H "Content-Type: application/json" \\
    -d '{"prompt": "a cat waves", "seed": 7}' | take id)
""",
    ("get", "/v1/videos"): """\
ask "$SANA/v1/videos?limit=10"
""",
    ("get", "/v1/videos/{video_id}"): """\
until ask "$SANA/v1/videos/$VIDEO" | take status | grep -E "completed|failed"; do sleep 1; done
""",
    ("get", "/v1/videos/{video_id}/content"): """\
ask -o cat.mp4 "$SANA/v1/videos/$VIDEO/content"
""",
    ("delete", "/v1/videos/{video_id}"): """\
ask -X DELETE "$SANA/v1/videos/$VIDEO"
""",
    ("post", "/v1/worlds"): """\
WALK=$(ask "$SANA/v1/worlds" -F image=@apple.png -F prompt="a garden" -F fov=65 -F seed=7 | take id)
""",
    ("get", "/v1/worlds"): """\
ask "$SANA/v1/worlds"
""",
    ("post", "/v1/worlds/{walk_id}/moves"): """\
ask "$SANA/v1/worlds/$WALK/moves" -H "Content-Type: application/json" -d '{"keys": "wd"}'
""",
    ("get", "/v1/worlds/{walk_id}"): """\
ask "$SANA/v1/worlds/$WALK"
""",
    ("get", "/v1/worlds/{walk_id}/moments"): """\
ask "$SANA/v1/worlds/$WALK/moments"
""",
    ("get", "/v1/worlds/{walk_id}/frames"): """\
ask "$SANA/v1/worlds/$WALK/frames?moment=1"
""",
    ("get", "/v1/worlds/{walk_id}/moments/{moment}/frame"): """\
ask -o frame.jpg "$SANA/v1/worlds/$WALK/moments/1/frame"
""",
    ("get", "/v1/worlds/{walk_id}/path"): """\
ask -o path.json "$SANA/v1/worlds/$WALK/path"
""",
    ("get", "/v1/worlds/{walk_id}/clip"): """\
ask -o walk.mp4 "$SANA/v1/worlds/$WALK/clip"
""",
    ("delete", "/v1/worlds/{walk_id}"): """\
ask -X DELETE "$SANA/v1/worlds/$WALK"
""",
    ("get", "/v1/models"): """\
MODEL=$(ask "$SANA/v1/models" | take data 0 id)
""",
    ("get", "/v1/models/{model}"): """\
ask "$SANA/v1/models/$MODEL"
""",
    ("get", "/health"): """\
ask "$SANA/health"
""",
    ("get", "/ready"): """\
ask "$SANA/ready"
""",
    ("get", "/metrics"): """\
ask "$SANA/metrics"
""",
}
