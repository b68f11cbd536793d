"""The files in deploy/ start the train command with the right TF_CONFIG on each machine."""

import json
import os
import subprocess
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
# Used instead of Python: prints how it was started.
PYTHON = '#!/bin/bash\necho "$TF_CONFIG"; echo "$@"\n'


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run(command, folder, **variables):
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    printed = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | variables | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    config, arguments = printed.rsplit("\n", 2)[:2]
    return json.loads(config), arguments


def test_slurm_script_gives_each_task_its_number(tmp_path):
    script(tmp_path / ".venv/bin/python", PYTHON)
    script(tmp_path / "bin/scontrol", "#!/bin/bash\nprintf 'node1\\nnode7\\n'\n")
    script(tmp_path / "bin/srun", '#!/bin/bash\nshift; SLURM_PROCID=1 exec "$@"\n')
    command = [DEPLOY / "slurm.sh", "--dataset=digits", "--model_dir=a folder"]
    config, arguments = run(command, tmp_path, SLURM_JOB_NODELIST="node[1,7]")
    assert config["cluster"] == {"worker": ["node1:22222", "node7:22222"]}
    assert config["task"] == {"type": "worker", "index": 1}
    assert arguments == (
        "-m daso_tf.train --dataset=digits --model_dir=a folder --strategy=multi_worker"
    )


def test_kubernetes_pods_find_each_other(tmp_path):
    service, job = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    (container,) = pod["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert int(variables["WORKERS"]) == job["spec"]["completions"] == job["spec"]["parallelism"]

    script(tmp_path / "bin/python", PYTHON)
    command = [*container["command"], *container["args"]]
    config, arguments = run(command, tmp_path, JOB_COMPLETION_INDEX="2", **variables)
    names = [f"daso-tf-{i}.daso-tf:{service['spec']['ports'][0]['port']}" for i in range(4)]
    assert config["cluster"] == {"worker": names}
    assert config["task"] == {"type": "worker", "index": 2}
    assert "--strategy=multi_worker" in arguments
