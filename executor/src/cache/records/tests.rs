//! The format of records: round trips, sizes, bounds, lies.

use super::wire::PLAIN_LIMIT;
use super::*;
use crate::build::manifest;
use proptest::prelude::*;

fn digest(number: u8) -> Digest {
    manifest::digest_of(&[number])
}

fn key(number: u8) -> CacheKey {
    CacheKey([number; 32])
}

fn layer(number: u8) -> CachedLayer {
    CachedLayer {
        diff_id: digest(number),
        identity: Some(format!("identity-{number}")),
        blob: Desc::new(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            &digest(number ^ 0xff),
            u64::from(number),
        ),
    }
}

fn found(layers: &[u8]) -> Found {
    let chain = layers.iter().map(|number| Link {
        layer: digest(*number),
        created: i64::from(*number),
    });
    Found {
        output: StepOutput {
            base: vec![digest(200)],
            chain: chain.collect(),
        },
        content: layers.last().map(|number| key(number ^ 0x55)),
        link: None,
    }
}

fn sample(stacks: &[Vec<u8>], seen: u32) -> Records {
    let mut records = Records::default();
    for (number, layers) in stacks.iter().enumerate() {
        for number in layers {
            records.put_layer(layer(*number));
        }
        records.put(key(u8::try_from(number).unwrap()), &found(layers), seen);
    }
    records
}

#[test]
fn what_is_put_is_found_by_each_key() {
    let records = sample(&[vec![1, 2], vec![1, 3]], 5);
    let read = Records::decode(&records.encode()).unwrap();
    assert_eq!(read.by_definition(&key(0)), Some(found(&[1, 2])));
    assert_eq!(read.by_content(&key(3 ^ 0x55)), Some(found(&[1, 3])));
    assert_eq!(read.by_definition(&key(9)), None);
    assert_eq!(read.layer(&digest(2)), Some(&layer(2)));
    let chain = [&digest(1), &digest(3)];
    assert_eq!(read.created(&[digest(200)], &chain), Some(3));
    assert_eq!(read.created(&[digest(201)], &chain), None);
    assert_eq!(read.nodes.len(), 3, "what lies below is shared");
}

#[test]
fn the_bytes_do_not_depend_on_the_order_of_additions() {
    let (mut one, mut other) = (sample(&[vec![1, 2]], 5), Records::default());
    let more = sample(&[vec![7], vec![1, 3]], 5);
    one.absorb(&more);
    other.absorb(&more);
    other.absorb(&sample(&[vec![1, 2]], 5));
    assert_eq!(one.len(), other.len());
    let again = Records::decode(&one.encode()).unwrap().encode();
    assert_eq!(again, one.encode());
}

#[test]
fn a_thousand_steps_take_less_than_a_megabyte() {
    let mut records = Records::default();
    let base = vec![digest(1)];
    let mut output = StepOutput {
        base,
        chain: Vec::new(),
    };
    for number in 0..1000_u32 {
        let hash = |what: &str| manifest::digest_of(format!("{what} {number}").as_bytes());
        let bytes = |what: &str| {
            let text = hash(what).to_string();
            super::wire::key(text.strip_prefix("sha256:").unwrap()).unwrap()
        };
        let diff_id = hash("layer");
        records.put_layer(CachedLayer {
            diff_id: diff_id.clone(),
            identity: Some(hash("identity").digest().to_owned()),
            blob: Desc::new(
                "application/vnd.oci.image.layer.v1.tar+gzip",
                &hash("blob"),
                12_345,
            ),
        });
        output = output.with(Link {
            layer: diff_id,
            created: 1_700_000_000 + i64::from(number),
        });
        let found = Found {
            output: output.clone(),
            content: Some(bytes("content")),
            link: None,
        };
        records.put(bytes("definition"), &found, 20_000);
    }
    let bytes = records.encode();
    assert!(bytes.len() < 400_000, "{}", bytes.len());
    let read = Records::decode(&bytes).unwrap();
    assert_eq!((read.len(), read.nodes.len()), (1000, 1000));
}

#[test]
fn old_records_go_and_young_ones_stay() {
    let mut records = sample(&[vec![1, 2]], 100);
    records.absorb(&{
        let mut young = Records::default();
        young.put_layer(layer(3));
        young.put(key(77), &found(&[3]), 180);
        young
    });
    let later = records.bounded(100 + MOST_DAYS + 1);
    assert_eq!(later.by_definition(&key(0)), None);
    assert!(later.by_definition(&key(77)).is_some());
    assert_eq!(
        later.layers().len(),
        1,
        "what only old ones needed goes too"
    );
    assert!(records.is_fresh(&key(77), 181) && !records.is_fresh(&key(0), 181));
    records.touch(&key(0), &found(&[1, 2]), 181);
    assert!(records.is_fresh(&key(0), 181));
}

#[test]
fn days_to_come_keep_nothing_for_ever() {
    let mut records = sample(&[vec![1, 2]], u32::MAX);
    assert!(
        records.is_fresh(&key(0), 100),
        "not marked again for no reason"
    );
    records.touch(&key(0), &found(&[1, 2]), 100);
    let kept = records.bounded(100);
    assert!(kept.by_definition(&key(0)).is_some());
    let later = kept.bounded(100 + MOST_DAYS + 1);
    assert_eq!(later.by_definition(&key(0)), None);
}

#[test]
fn lies_are_refused() {
    let encode = |text: &str| zstd::bulk::compress(text.as_bytes(), 1).unwrap();
    let id = digest(1).to_string();
    let blob = format!(r#"{{"mediaType":"x","digest":"{id}","size":1}}"#);
    let layers = format!(r#"[{{"diff_id":"{id}","blob":{blob}}}]"#);
    let with = |layers: &str, nodes: &str, records: &str| {
        format!(
            r#"{{"version":1,"layers":{layers},"bases":[[]],"nodes":{nodes},"records":{records}}}"#
        )
    };
    let good = with(&layers, "[[-1,0,0]]", "[]");
    assert!(Records::decode(&encode(&good)).is_ok());
    let twice = format!("{},{}", &layers[..layers.len() - 1], &layers[1..]);
    let (key, short) = ("a".repeat(64), "é".repeat(32));
    for text in [
        "".to_owned(),
        "[]".to_owned(),
        r#"{"version":2}"#.to_owned(),
        with(&twice, "[]", "[]"),
        with(&layers, "[[-1,1,0]]", "[]"),
        with(&layers, "[[-2,0,0]]", "[]"),
        with(&layers, "[[0,0,0]]", "[]"),
        with(&layers, "[[1,0,0],[0,0,0]]", "[]"),
        with(&layers, &format!("[[{},0,0]]", i64::MIN), "[]"),
        with(
            &layers,
            "[]",
            &format!(r#"[{{"key":"{key}","node":0,"seen":1}}]"#),
        ),
        with(
            &layers,
            "[[-1,0,0]]",
            &format!(r#"[{{"key":"{short}","node":0,"seen":1}}]"#),
        ),
        with(&layers, "[[-1,0,0]]", r#"[{"key":"","node":0,"seen":1}]"#),
        with(r#"[{"diff_id":"sha256:..","blob":{}}]"#, "[]", "[]"),
    ] {
        assert!(Records::decode(&encode(&text)).is_err(), "{text}");
    }
    assert!(Records::decode(b"garbage").is_err());
    let huge = vec![b' '; usize::try_from(PLAIN_LIMIT).unwrap() + 1];
    let bomb = zstd::bulk::compress(&huge, 1).unwrap();
    let told = Records::decode(&bomb).unwrap_err();
    assert!(told.contains("larger than the limit"), "{told}");
}

/// Little text that would take a thousand times its memory, or be copied for hours.
#[test]
fn what_would_take_too_much_memory_or_time_is_refused() {
    let encode = |text: &str| zstd::bulk::compress(text.as_bytes(), 1).unwrap();
    let refused = |text: &str| Records::decode(&encode(text)).unwrap_err();
    let many = "[],".repeat(5_000_000);
    let bases =
        format!(r#"{{"version":1,"layers":[],"bases":[{many}[]],"nodes":[],"records":[]}}"#);
    assert!(refused(&bases).contains("values"));
    let deep = format!("{}1", "[".repeat(100_000));
    assert!(refused(&deep).contains("damaged"));
    // Many records over a deep stack.
    let id = digest(1).to_string();
    let blob = format!(r#"{{"mediaType":"x","digest":"{id}","size":1}}"#);
    let nodes: String = (0..10_000).map(|at| format!("[{at},0,0],")).collect();
    let record = |at: u32| format!(r#"{{"key":"{at:064x}","node":10000,"seen":1}}"#);
    let records: Vec<String> = (0..5000).map(record).collect();
    let text = format!(
        r#"{{"version":1,"layers":[{{"diff_id":"{id}","blob":{blob}}}],"bases":[[]],"nodes":[[-1,0,0],{}],"records":[{}]}}"#,
        nodes.trim_end_matches(','),
        records.join(",")
    );
    assert!(refused(&text).contains("layers together"));
}

proptest! {
    #[test]
    fn bytes_of_any_kind_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Records::decode(&bytes);
        let _ = Records::decode(&zstd::bulk::compress(&bytes, 1).unwrap());
    }

    #[test]
    fn a_changed_byte_is_refused_or_gives_records_that_can_be_used(
        at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let records = sample(&[vec![1, 2], vec![1, 3], vec![4]], 5);
        let mut plain = serde_json::to_vec(&records.wire()).unwrap();
        let at = at.index(plain.len());
        plain[at] = to;
        if let Ok(read) = Records::decode(&zstd::bulk::compress(&plain, 1).unwrap()) {
            for (key, entry) in &read.entries {
                prop_assert_eq!(read.by_definition(key), Some(read.found(entry)));
            }
            prop_assert!(Records::decode(&read.encode()).is_ok());
        }
    }

    #[test]
    fn what_is_written_is_read(
        stacks in proptest::collection::vec(proptest::collection::vec(0_u8..20, 1..8), 0..12),
    ) {
        let records = sample(&stacks, 5);
        let read = Records::decode(&records.encode()).unwrap();
        for (number, layers) in stacks.iter().enumerate() {
            let key = key(u8::try_from(number).unwrap());
            prop_assert_eq!(read.by_definition(&key), Some(found(layers)));
        }
    }
}
