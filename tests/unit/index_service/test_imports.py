import subprocess
import sys


def test_the_service_loads_neither_torch_nor_the_client() -> None:
    program = (
        "import sys, index_service.command\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "assert 'faiss' in names\n"
        "print(sorted(names & {'torch', 'transformers', 'eyebright_client', 'eyebright_cli', 'embedder_service'}))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
