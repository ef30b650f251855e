//! TensorBoard's event file, read here by a small reader of its own that shares nothing with the
//! writer; and by TensorBoard itself, where it is installed.
#![allow(clippy::print_stdout, reason = "it says whether TensorBoard was there")]

use kinfold_train::{Event, Settings, resume, train};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// CRC-32C, a bit at a time, masked as TFRecord has it.
fn masked_checksum(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The data of each record.
fn records(mut file: &[u8]) -> Vec<&[u8]> {
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let mut records = Vec::new();
    while !file.is_empty() {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert_eq!(number(&file[8..12]), masked_checksum(&file[..8]), "of the length");
        let data = &file[12..12 + length];
        assert_eq!(number(&file[12 + length..16 + length]), masked_checksum(data), "of the data");
        records.push(data);
        file = &file[16 + length..];
    }
    records
}

fn varint(message: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = message[0];
        *message = &message[1..];
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return number;
        }
    }
}

/// The fields of a protocol buffer: their numbers, and their bytes or the bytes of their number.
fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let length = match key & 7 {
            0 => {
                fields.push((key >> 3, varint(&mut message).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut message) as usize,
            5 => 4,
            other => panic!("there is no wire type {other}"),
        };
        fields.push((key >> 3, message[..length].to_vec()));
        message = &message[length..];
    }
    fields
}

fn field(fields: &[(u64, Vec<u8>)], number: u64) -> Option<&[u8]> {
    fields.iter().find(|(other, _)| *other == number).map(|(_, bytes)| &bytes[..])
}

/// Each scalar's steps and values.
fn scalars(run: &Path) -> BTreeMap<String, Vec<(u64, f32)>> {
    let file = std::fs::read(run.join("events.out.tfevents.kinfold")).unwrap();
    let events: Vec<_> = records(&file).into_iter().map(fields).collect();
    assert_eq!(field(&events[0], 3), Some(&b"brain.Event:2"[..]), "the first is the version");
    let mut scalars: BTreeMap<String, Vec<(u64, f32)>> = BTreeMap::new();
    for event in &events[1..] {
        let time = f64::from_le_bytes(field(event, 1).unwrap().try_into().unwrap());
        assert!(time > 1.7e9, "seconds since 1970");
        let step = u64::from_le_bytes(field(event, 2).unwrap().try_into().unwrap());
        let summary = field(event, 5).unwrap();
        for (number, value) in fields(summary) {
            assert_eq!(number, 1);
            let value = fields(&value);
            let tag = String::from_utf8(field(&value, 1).unwrap().to_vec()).unwrap();
            let number = f32::from_le_bytes(field(&value, 2).unwrap().try_into().unwrap());
            scalars.entry(tag).or_default().push((step, number));
        }
    }
    scalars
}

#[test]
fn tensorboard_has_every_step_once() {
    assert_eq!(
        masked_checksum(b"123456789"),
        0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8)
    );
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut settings = Settings { epochs: 2, batch: Some(200), ..Settings::default() };
    settings.encoder = toml::from_str("widths = [4]\nembedding = 16\nprojection = 8").unwrap();
    settings.loss.name = Some("open-clip".to_owned());
    let stop = AtomicBool::new(false);
    let mut on_event = |event: Event<'_>| {
        if let Event::Stepped(progress) = event {
            stop.store(progress.step == 5, Ordering::Relaxed);
        }
        Ok(())
    };
    // Stopped, which measures and notes what there is; that is forgotten when it goes on.
    train(settings, &run, &stop, &mut on_event).unwrap();
    let evaluated =
        |of: &BTreeMap<String, Vec<(u64, f32)>>| of["evaluation/one_shot/trained"].clone();
    assert_eq!(evaluated(&scalars(&run))[0].0, 5);
    stop.store(false, Ordering::Relaxed);
    let summary = resume(&run, None, &stop, &mut on_event).unwrap();

    let read = scalars(&run);
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        metrics.lines().take(14).map(|line| serde_json::from_str(line).unwrap()).collect();
    for tag in ["loss", "learning_rate", "temperature"] {
        let written = lines.iter().map(|line| line[tag].as_f64().unwrap() as f32);
        assert_eq!(read[tag], (1..=14).zip(written).collect::<Vec<_>>(), "{tag}");
    }
    for tag in ["pairs_per_second", "loss_floor"] {
        let steps: Vec<u64> = read[tag].iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, (1..=14).collect::<Vec<_>>(), "{tag}");
    }
    let one_shot = summary.evaluation.unwrap().one_shot.trained as f32;
    assert_eq!(evaluated(&read), [(14, one_shot)]);

    // And TensorBoard itself.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_events.py");
    match Command::new("python3").arg(script).arg(&run).output() {
        Ok(output) => {
            let (out, err) = (output.stdout, output.stderr);
            println!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
            assert!(output.status.success(), "TensorBoard reads something else");
        }
        Err(error) => println!("skipped: python3: {error}"),
    }
}
