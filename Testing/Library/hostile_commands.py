"""Commands that cannot be carried out; ``test_hostile_input`` makes the files that they name."""

from __future__ import annotations

DENSIFY = "densify vol.nrrd -a ann.seg.nrrd -o out.seg.nrrd --iterations 1"
SEGMENT = "segment model.safetensors vol.nrrd -o out.seg.nrrd"
EVALUATE = "evaluate truth.seg.nrrd --truth truth.seg.nrrd"
TRAIN = "train -o out.safetensors --iterations 1 -c vol.nrrd ann.seg.nrrd"


def annotated_by(file: str, options: str = "") -> str:
    return f"densify vol.nrrd -a {file} -o out.seg.nrrd --iterations 1 {options}"


def volume_in(file: str) -> str:
    return f"densify -a ann.seg.nrrd -o out.seg.nrrd --iterations 1 {file}"


def applied(model: str) -> str:
    return f"segment {model} vol.nrrd -o out.seg.nrrd"


#: What is wrong, the command, its exit code, and what its sentence says.
HOSTILE = [
    # Volumes.
    ("no such file", volume_in("none.nrrd"), 3, "Cannot read 'none.nrrd': No such file or directory."),
    ("a folder", volume_in("folder"), 3, "'folder' is a folder; name the volume's file"),
    ("an empty file", volume_in("empty.nrrd"), 3, "'empty.nrrd' is empty (0 bytes); copy or export it again."),
    ("text", volume_in("text.nrrd"), 3, "'text.nrrd' is damaged or not an image in a known format; use one of"),
    ("a truncated NRRD", volume_in("short.nrrd"), 3, "Cannot read 'short.nrrd': it is damaged, cut short"),
    ("a truncated NIfTI", volume_in("short.nii"), 3, "'short.nii' is"),
    ("a truncated .nii.gz", volume_in("short.nii.gz"), 3, "'short.nii.gz' is"),
    ("a 2D image", volume_in("flat.nrrd"), 3, "'flat.nrrd' is a two-dimensional image (32x24); a volume"),
    ("a 4D image", volume_in("series.nii"), 3, "'series.nii' is a time series or sequence (4x3x2x5 voxels"),
    ("complex voxels", volume_in("complex.nii"), 3, "'complex.nii' has complex numbers as voxels; save its magnitude"),
    ("only NaN", volume_in("nan.nrrd"), 3, "Every voxel of channel 'nan' is NaN or infinite; export"),
    (
        "a constant volume", volume_in("constant.nrrd"), 3,
        "is constant (every voxel is 7), so there is nothing to learn",
    ),
    (
        "channels on two grids", volume_in("vol.nrrd moved.nrrd"), 3,
        "The channels lie on different voxel grids: 'vol.nrrd'",
    ),
    ("channels of two sizes", volume_in("vol.nrrd cropped.nrrd"), 3, "The channels lie on different voxel grids"),
    # Annotations.
    ("an annotation that is missing", annotated_by("none.seg.nrrd"), 3, "Cannot read 'none.seg.nrrd': No such file"),
    ("an annotation on another grid", annotated_by("moved.seg.nrrd"), 3, "'moved.seg.nrrd' lies on another voxel grid"),
    ("an annotation elsewhere", annotated_by("outside.seg.nrrd"), 3, "'outside.seg.nrrd' (32x32x24 voxels"),
    (
        "nothing painted", annotated_by("blank.seg.nrrd"), 3,
        "'blank.seg.nrrd': Nothing is painted in the segmentation; paint",
    ),
    (
        "nothing on the slices", annotated_by("ann.seg.nrrd", "--slices z:0"), 3,
        "No structure is painted on the slices z:0",
    ),
    ("one class only", annotated_by("full.seg.nrrd", "--slices z:5"), 3, "Only 'liver' is annotated on the slices z:5"),
    ("a dense annotation", annotated_by("truth.seg.nrrd"), 3, "fills neighbouring slices in all directions"),
    (
        "an unknown label", annotated_by("unknown.seg.nrrd"), 3,
        "has voxels of value 9, which belongs to none of its segments",
    ),
    (
        "overlapping segments", annotated_by("overlap.seg.nrrd"), 3,
        "segments 'liver' and 'left kidney' overlap in 5 voxels",
    ),
    (
        "fractional labels", annotated_by("fraction.nrrd"), 3,
        "'fraction.nrrd' is no label map: it holds the value 0.5, which is no whole number.",
    ),
    (
        "negative labels", annotated_by("negative.nrrd"), 3,
        "'negative.nrrd' is no label map: it holds the negative value -3.",
    ),
    ("two segments of one name", annotated_by("twins.seg.nrrd"), 3, "'twins.seg.nrrd': 2 segments are named 'liver'"),
    (
        "names that are no JSON", annotated_by("broken.nrrd"), 3,
        "Cannot read 'broken.json', which should name the segments",
    ),
    (
        "a gray volume as annotation", annotated_by("vol.nrrd"), 3,
        "'vol.nrrd' is no label map: it holds the negative value",
    ),
    (
        "slices outside", annotated_by("ann.seg.nrrd", "--slices z:3,24"), 2,
        "Slice z:24 lies outside the volume; z goes from 0 to 23",
    ),
    (
        "slices without axis", annotated_by("ann.seg.nrrd", "--slices 10"), 2,
        "'10' names no slices; write an axis x, y or z",
    ),
    ("slices that are no number", annotated_by("ann.seg.nrrd", "--slices z:a"), 2, "'a' in 'z:a' is no slice number"),
    ("slices backwards", annotated_by("ann.seg.nrrd", "--slices z:9-3"), 2, "'9-3' in 'z:9-3' holds no slice"),
    (
        "slices with scribbles", annotated_by("ann.seg.nrrd", "--slices z:3 --scribbles"), 2,
        "Give either --slices or --scribbles",
    ),
    (
        "a slice held out of scribbles", annotated_by("ann.seg.nrrd", "--scribbles --held-out z:3"), 2,
        "--held-out names whole slices, and with --scribbles there are none",
    ),
    (
        "scribbles without background", annotated_by("ann.seg.nrrd", "--scribbles"), 3,
        "Scribbles need a segment named 'background'",
    ),
    (
        "a truth of other names", DENSIFY + " --truth other.seg.nrrd", 3,
        "no name is the same, so they cannot be compared",
    ),
    ("a truth on another grid", DENSIFY + " --truth moved.seg.nrrd", 3, "'moved.seg.nrrd' lies on another voxel grid"),
    # Options.
    ("no command", "", 2, "the following arguments are required: COMMAND"),
    ("an unknown command", "segmnt", 2, "invalid choice: 'segmnt'"),
    ("an unknown option", DENSIFY + " --epochs 3", 2, "unrecognized arguments: --epochs"),
    ("an unknown preset", DENSIFY + " --preset best", 2, "invalid choice: 'best'"),
    ("an unknown network", DENSIFY + " --network vnet", 2, "invalid choice: 'vnet'"),
    (
        "an unknown device", DENSIFY + " --device tpu", 2,
        "There is no device 'tpu'; use auto, cpu, cuda, cuda:1 or mps.",
    ),
    (
        "a GPU that is not there", DENSIFY + " --device cuda:99", 2,
        "Device 'cuda:99' is not available here; use auto or cpu",
    ),
    ("no minutes", DENSIFY + " --minutes 0", 2, "--minutes must be above 0 and finite, not 0."),
    ("negative minutes", DENSIFY + " --minutes -2", 2, "--minutes must be above 0 and finite, not -2."),
    ("minutes without end", DENSIFY + " --minutes inf", 2, "--minutes must be above 0 and finite, not inf."),
    ("no iterations", DENSIFY + " --iterations 0", 2, "--iterations must be 1 or more, not 0."),
    ("a seed too large", DENSIFY + f" --seed {2**64}", 2, "--seed must be a number from 0 to 2^63 - 1"),
    ("an unknown key", DENSIFY + " --plan depth=3", 2, "A plan has no 'depth' to set; choose patch_size, batch_size"),
    ("a plan without value", DENSIFY + " --plan batch_size", 2, "--plan takes KEY=VALUE, for example batch_size=1"),
    (
        "a plan's bad value", DENSIFY + " --plan patch_size=16x16", 2,
        "'16x16' is no value for patch_size; write it like",
    ),
    (
        "a size that cannot be", DENSIFY + " --plan strides=2x2x2 --plan widths=4,8 --plan patch_size=15x16x16", 2,
        "multiple of",
    ),
    (
        "widths that do not fit", DENSIFY + " --plan strides=2x2x2 --plan widths=4,8,16", 2,
        "1 strides need 2 widths, not 3.",
    ),
    (
        "mirroring along w", DENSIFY + " --mirror w", 2,
        "--mirror takes the letters x, y and z, each at most once, not 'w'.",
    ),
    ("averaging along xx", SEGMENT + " --average-mirrored xx", 2, "--average-mirrored takes the letters x, y and z"),
    ("too much overlap", DENSIFY + " --overlap 2", 2, "--overlap must be between 0 and 0.9, not 2."),
    ("negative held-out slices", DENSIFY + " --hold-out -1", 2, "--hold-out must be 0 or more, not -1."),
    (
        "too many held-out slices", DENSIFY + " --hold-out 9", 2,
        "of the 3 annotated slices can be held out without taking",
    ),
    ("no memory", DENSIFY + " --memory 0", 2, "--memory must be above 0 GiB and finite, not 0."),
    ("little memory", DENSIFY + " --memory 0.001", 5, "Training does not fit into memory even with one patch of"),
    (
        "a plan that is too large", DENSIFY + " --plan patch_size=8192x8192x8192", 5,
        "With patches of 8192x8192x8192 voxels, 1 per step, training needs about",
    ),
    (
        "a network that is too wide", DENSIFY + " --plan strides=2x2x2 --plan widths=1000000,1000000", 5,
        "choose a smaller patch_size, batch_size or widths, or allow more with --memory.",
    ),
    ("two ways to begin", DENSIFY + " --resume --restart", 2, "not allowed with argument"),
    ("nothing to resume", DENSIFY + " --resume", 3, "There is no checkpoint in 'out.seg.nrrd.run' to resume from"),
    # Models.
    (
        "a model that is missing", applied("none.safetensors"), 3,
        "There is no model file 'none.safetensors'; check its name.",
    ),
    ("a folder for a model", applied("folder"), 3, "'folder' is a folder; name the model file in it."),
    (
        "a truncated model", applied("short.safetensors"), 3,
        "'short.safetensors' cannot be read as a SparseUNet3D model",
    ),
    (
        "a foreign model", applied("foreign.safetensors"), 3,
        "'foreign.safetensors' was written by another program; a model",
    ),
    ("a pickle", applied("model.pt"), 3, "'model.pt' cannot be read as a SparseUNet3D model"),
    ("a checkpoint", applied("checkpoint.safetensors"), 3, "is a SparseUNet3D checkpoint, but a model is needed here"),
    (
        "other channels", "segment model.safetensors -c vol.nrrd vol2.nrrd -o out.seg.nrrd", 3,
        "'vol' has 2 channel(s), but the model",
    ),
    (
        "a model to start from of other channels", volume_in("vol.nrrd vol2.nrrd --start-from model.safetensors"), 3,
        "The model to start from has 1 channel(s), the volumes 2.",
    ),
    (
        "a broken model to start from", DENSIFY + " --start-from short.safetensors", 3,
        "'short.safetensors' cannot be read",
    ),
    ("a card of no model", "info vol.nrrd", 3, "'vol.nrrd' cannot be read as a SparseUNet3D model"),
    # Outputs.
    (
        "an unknown ending", DENSIFY + " -o out.png", 2,
        "Cannot write 'out.png' (segmentation): its name must end in one of .nrrd",
    ),
    (
        "a model's unknown ending", "train -o out.pt -c vol.nrrd ann.seg.nrrd", 2,
        "'out.pt' (model): its name must end in .safetensors.",
    ),
    (
        "a picture's unknown ending", DENSIFY + " --pictures out.jpg", 2,
        "Cannot write 'out.jpg' (pictures): its name must end in .png.",
    ),
    (
        "a preview's unknown ending", DENSIFY + " --preview out.txt", 2,
        "Cannot write 'out.txt' (preview): its name must end in one of",
    ),
    ("a folder that is missing", DENSIFY + " -o none/out.seg.nrrd", 7, "/none' does not exist; create it first."),
    (
        "a folder for a file", DENSIFY + " --confidence dir.nrrd", 7,
        "Cannot write 'dir.nrrd': it is a folder; give the name of a file.",
    ),
    ("a name too long", DENSIFY + f" -o {'x' * 300}.seg.nrrd", 7, "File name too long; give another name."),
    (
        "a file that exists", DENSIFY + " --model model.safetensors", 7,
        "'model.safetensors' exists already; give another name, or --overwrite",
    ),
    ("a preview that exists", DENSIFY + " --preview truth.seg.nrrd", 7, "'truth.seg.nrrd' exists already"),
    (
        "another file's names", DENSIFY + " -o config.nrrd --overwrite", 7,
        "its segment names would replace 'config.json', which is another file",
    ),
    ("an output over an input", DENSIFY + " -o ann.seg.nrrd --overwrite", 2, "'ann.seg.nrrd' is an input already"),
    (
        "an output over an input by another way", DENSIFY + " -o folder/../vol.nrrd --overwrite", 2,
        "'folder/../vol.nrrd' is an input already",
    ),
    (
        "an output over an input's names", annotated_by("sparse.nrrd", "-o sparse.mha --overwrite"), 2,
        "'sparse.json' is where the segment names of 'sparse.nrrd' are looked for, and the",
    ),
    (
        "a preview over an input, resuming", DENSIFY + " --resume --preview ann.seg.nrrd", 2,
        "'ann.seg.nrrd' is an input already",
    ),
    (
        "a preview's unknown ending, resuming", DENSIFY + " --resume --preview out.txt", 2,
        "Cannot write 'out.txt' (preview): its name must end in one of",
    ),
    (
        "a volume in another unit", "densify um.nrrd -a um.seg.nrrd -o out.seg.nrrd --start-from model.safetensors", 3,
        "'um' has a spacing of",
    ),
    (
        "one file for two outputs", DENSIFY + " --confidence out.seg.nrrd", 2,
        "'out.seg.nrrd' is the segmentation already, and the confidence would replace it",
    ),
    (
        "a run folder that is a file", DENSIFY + " --run-folder empty.nrrd", 7,
        "Cannot make the folder 'empty.nrrd': File exists",
    ),
    # The other commands.
    (
        "a case without annotation", "train -o out.safetensors -c vol.nrrd", 2,
        "--case needs a volume and its annotation, but was given only",
    ),
    (
        "cases of different channels", TRAIN + " -c vol.nrrd vol2.nrrd ann.seg.nrrd", 3,
        "All training volumes need the same channels",
    ),
    ("no volume", "segment model.safetensors -o out.seg.nrrd", 2, "Name at least one volume to segment."),
    (
        "several volumes, one output", "segment model.safetensors vol.nrrd vol2.nrrd -o out.seg.nrrd", 2,
        "2 volumes cannot all be written to 'out.seg.nrrd'",
    ),
    (
        "volumes of one name", "segment model.safetensors vol.nrrd folder/vol.nrrd --output-folder .", 2,
        "Several volumes would be written to 'vol.seg.nrrd'",
    ),
    (
        "an output folder that is a file", "segment model.safetensors vol.nrrd --output-folder empty.nrrd", 7,
        "Cannot make the folder 'empty.nrrd'",
    ),
    (
        "a truth of no common name", "evaluate truth.seg.nrrd --truth other.seg.nrrd", 3,
        "no name is the same, so they cannot be compared; rename them.",
    ),
    ("a truth that lies elsewhere", "evaluate truth.seg.nrrd --truth moved.seg.nrrd", 3, "lies on another voxel grid"),
    ("a picture without volume", EVALUATE + " --pictures out.png", 2, "--pictures needs --image, the volume to draw."),
    (
        "a picture of another volume", EVALUATE + " --pictures out.png --image moved.nrrd", 3,
        "lies on another voxel grid",
    ),
    ("two regions", EVALUATE + " -a ann.seg.nrrd --planes z:3", 2, "Give either --annotation or --planes"),
    (
        "slices of no annotation", EVALUATE + " --slices z:3", 2,
        "--slices and --scribbles say how --annotation is meant",
    ),
    ("planes outside", EVALUATE + " --planes x:32", 2, "Slice x:32 lies outside the volume; x goes from 0 to 31 here."),
]
