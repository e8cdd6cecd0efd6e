//! PyTorch files that the tests write: views of storages, and malicious pickles.

use std::io::{Cursor, Write};
use std::path::Path;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

/// A pickle of protocol 2 under construction.
#[derive(Default)]
pub(super) struct Pickle(Vec<u8>);

impl Pickle {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    fn int(self, value: i32) -> Self {
        self.raw(b"J").raw(&value.to_le_bytes())
    }

    fn ints(self, values: &[i32]) -> Self {
        values.iter().fold(self.raw(b"("), |pickle, &value| pickle.int(value)).raw(b"t")
    }

    fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    /// A tensor as torch.save writes it.
    pub(super) fn tensor(
        self,
        storage: &str,
        key: &str,
        len: i32,
        offset: i32,
        shape: &[i32],
        strides: &[i32],
    ) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .raw(b"((")
            .text("storage")
            .global("torch", storage)
            .text(key)
            .text("cpu")
            .int(len)
            .raw(b"tQ")
            .int(offset)
            .ints(shape)
            .ints(strides)
            .raw(b"\x89")
            .global("collections", "OrderedDict")
            .raw(b")RtR")
    }

    pub(super) fn dict(entries: impl FnOnce(Self) -> Self) -> Vec<u8> {
        entries(Pickle::default().raw(b"\x80\x02}(")).raw(b"u.").0
    }
}

pub(super) fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let files = storages.iter().map(|(key, content)| (format!("archive/data/{key}"), *content));
    for (name, content) in [("archive/data.pkl".to_string(), pickle)].into_iter().chain(files) {
        zip.start_file(name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn read(pickle: &[u8], storages: &[(&str, &[u8])]) -> Result<BTreeMap<String, Stored>> {
    let tensors = torch::read(Path::new("case.bin"), &Bytes::new(archive(pickle, storages)))?;
    Ok(tensors.into_iter().collect())
}

#[test]
fn views_of_storages() {
    let floats: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let doubles: Vec<u8> = (0..4).flat_map(|i| (i as f64 / 4.0).to_le_bytes()).collect();
    let pickle = Pickle::dict(|p| {
        let p = p.text("whole").tensor("FloatStorage", "0", 12, 0, &[3, 4], &[4, 1]);
        let p = p.text("transposed").tensor("FloatStorage", "0", 12, 0, &[4, 3], &[1, 4]);
        let p = p.text("columns").tensor("FloatStorage", "0", 12, 1, &[3, 2], &[4, 2]);
        let p = p.text("scalar").tensor("FloatStorage", "0", 12, 7, &[], &[]);
        let p = p.text("empty").tensor("FloatStorage", "0", 12, 12, &[0, 5], &[5, 1]);
        let p = p.text("one row").tensor("FloatStorage", "0", 12, 4, &[1, 4], &[99, 1]);
        let p = p.text("doubles").tensor("DoubleStorage", "1", 4, 0, &[2, 2], &[2, 1]);
        // torch.nn.Parameter
        let p = p.text("parameter").global("torch._utils", "_rebuild_parameter").raw(b"(");
        let p = p.tensor("FloatStorage", "0", 12, 0, &[2], &[1]).raw(b"\x88");
        let p = p.global("collections", "OrderedDict").raw(b")RtR");
        p.text("ids").tensor("LongStorage", "1", 4, 0, &[4], &[1])
    });
    let tensors = read(&pickle, &[("0", &floats), ("1", &doubles)]).unwrap();
    let values = |name: &str| tensors[name].load(name, None).unwrap().to_f32();
    assert_eq!(values("whole"), (0..12).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(values("transposed"), [0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.]);
    assert_eq!(values("columns"), [1., 3., 5., 7., 9., 11.]);
    assert_eq!(values("scalar"), [7.]);
    assert!(values("empty").is_empty());
    assert_eq!(values("one row"), [4., 5., 6., 7.]);
    assert_eq!(values("doubles"), [0., 0.25, 0.5, 0.75]);
    assert_eq!(values("parameter"), [0., 1.]);
    assert!(tensors["ids"].load("ids", None).unwrap_err().to_string().contains("i64"));
}

#[test]
fn pickles_that_are_refused() {
    let dict = |entries: fn(Pickle) -> Pickle| Pickle::dict(entries);
    let tensor = |offset, shape: &'static [i32], strides: &'static [i32]| {
        Pickle::dict(|p| p.text("t").tensor("FloatStorage", "0", 4, offset, shape, strides))
    };
    let cases: [(Vec<u8>, &str); 22] = [
        (b"cos\nsystem\n(X\x02\0\0\0lstR.".to_vec(), "`os.system`"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.".to_vec(), "`os.system`"),
        (dict(|p| p.text("t").global("builtins", "eval")), "`builtins.eval`"),
        (dict(|p| p.text("t").global("torch", "load")), "`torch.load`"),
        (dict(|p| p.text("t").global("torch._utils", "_rebuild_tensor_v3")), "safetensors"),
        (dict(|p| p.text("t").global("torch.storage", "UntypedStorage")), "safetensors"),
        (b"\x80\x02(i__main__\nX\n.".to_vec(), "0x69"),
        (b"\x80\x02}\x81.".to_vec(), "0x81"),
        (dict(|p| p.text("epoch").int(3)), "`epoch`"),
        (dict(|p| p.int(1).int(2)), "names are not text"),
        (b"\x80\x02N.".to_vec(), "state dict"),
        (b"\x80\x02}".to_vec(), "truncated"),
        (b"\x80\x02X\xff\xff\xff\xff".to_vec(), "truncated"),
        (b"R.".to_vec(), "stack"),
        (b"}h\x07.".to_vec(), "put away"),
        (b"\x8a\xff.".to_vec(), "255 bytes"),
        (tensor(1, &[4], &[1]), "reaches past"),
        (tensor(-1, &[4], &[1]), "at least 0"),
        (tensor(0, &[4], &[i32::MAX]), "reaches past"),
        (tensor(0, &[i32::MAX, i32::MAX, i32::MAX], &[0, 0, 0]), "shape"),
        (tensor(0, &[1 << 30, 4], &[0, 1]), "repeats"),
        (tensor(0, &[4], &[1, 1]), "strides"),
    ];
    for (pickle, word) in cases {
        let message = read(&pickle, &[("0", &[0; 16])]).expect_err(word).to_string();
        assert!(message.contains(word) && message.contains("case.bin"), "`{message}` does not say `{word}`");
    }
    let short = Pickle::dict(|p| p.text("t").tensor("FloatStorage", "0", 4, 0, &[4], &[1]));
    assert!(read(&short, &[("0", &[0; 15])]).unwrap_err().to_string().contains("`t`"));
    assert!(read(&short, &[]).unwrap_err().to_string().contains("storage 0"));
}

/// A million nested tuples, a dictionary that contains itself, and a memo index near 2³².
#[test]
fn tangled_pickles() {
    let nested = [b"N".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
    assert!(pickle::read(&nested).is_err());
    assert!(pickle::read(b"}r\xff\xff\xff\xffX\x01\0\0\0dj\xff\xff\xff\xffs.").is_err());
}

/// A folder of two `.bin` shards gives the same model as the safetensors folder that it was made from; where both
/// exist, safetensors are preferred.
#[test]
fn sharded_folder() {
    let original = open("llama_untied_sharded");
    let scratch = std::env::temp_dir().join(format!("dunlin-sharded-folder-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    std::fs::copy(original.path.join("config.json"), scratch.join("config.json")).unwrap();
    let infos: Vec<_> = original.tensors().collect();
    let mut index = serde_json::Map::new();
    for (n, part) in infos.chunks(infos.len().div_ceil(2)).enumerate() {
        let (shard, mut storages) = (format!("pytorch_model-0000{n}-of-00002.bin"), Vec::new());
        let pickle = Pickle::dict(|pickle| {
            part.iter().fold(pickle, |pickle, info| {
                let shape: Vec<i32> = info.shape.iter().map(|&size| size as i32).collect();
                let strides = if let [_, cols] = shape[..] { vec![cols, 1] } else { vec![1] };
                let key = storages.len().to_string();
                storages.push((key.clone(), original.take(info.name, info.shape).unwrap().bytes));
                index.insert(info.name.into(), shard.clone().into());
                let len = shape.iter().product();
                pickle.text(info.name).tensor("FloatStorage", &key, len, 0, &shape, &strides)
            })
        });
        let storages: Vec<_> = storages.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
        std::fs::write(scratch.join(shard), archive(&pickle, &storages)).unwrap();
    }
    let index = serde_json::json!({ "metadata": {"total_size": 0}, "weight_map": index });
    std::fs::write(scratch.join("pytorch_model.bin.index.json"), index.to_string()).unwrap();

    let checkpoint = Checkpoint::open(&scratch).unwrap();
    assert_eq!(checkpoint.config, original.config);
    for info in original.tensors() {
        let (ours, theirs) = (checkpoint.take(info.name, info.shape), original.take(info.name, info.shape));
        assert_eq!(&ours.unwrap().bytes[..], &theirs.unwrap().bytes[..], "{}", info.name);
    }
    std::fs::write(scratch.join("model.safetensors"), "").unwrap();
    assert!(Checkpoint::open(&scratch).unwrap_err().to_string().contains("model.safetensors"));
    std::fs::remove_dir_all(&scratch).unwrap();
}
