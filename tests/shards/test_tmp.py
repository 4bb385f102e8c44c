from colocam_dist.data.index import ShotIndex, check_same_classes
import subprocess
def test_a(tiny_shards):
    print(subprocess.check_output(["ls","-la",tiny_shards],text=True))
    for s in ("train","val","test"):
        i=ShotIndex.open(tiny_shards,s); print(s,i.n_frames,len(i.shots),len(i.shard_paths),sorted(x.n_frames for x in i.shots), len(i.box_frame))
