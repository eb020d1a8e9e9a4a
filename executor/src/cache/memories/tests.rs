//! Labels, bounds, and what is made of bytes that somebody else wrote.

use super::*;
use crate::build::manifest::Index;
use planner::explain::{Ended, Kind};
use planner::key::Field;
use proptest::prelude::*;

const DAY: i64 = 86_400;
const NOW: i64 = 20_000 * DAY;

fn label(place: u32, head: u32, time: i64) -> Label {
    Label {
        place: format!("{place:032x}"),
        text: format!("{:032x}", 7),
        head: format!("{head:032x}"),
        time,
    }
}

/// A cache's memories with one more, of this size.
fn with(memories: &Memories, label: &Label, size: usize) -> Memories {
    let byte = u8::try_from(label.time % 251).unwrap_or_default();
    memories.with(label, || Some(vec![byte; size])).unwrap()
}

fn heads(memories: &Memories) -> Vec<&str> {
    let entries = memories.0.iter();
    entries.map(|entry| entry.label.head.as_str()).collect()
}

#[test]
fn a_label_is_read_as_it_was_written_and_others_are_passed_over() {
    let memories = with(&Memories::default(), &label(1, 2, NOW), 10);
    let mut parts = memories.descriptors();
    assert_eq!(Memories::named(&parts).0[0].label, label(1, 2, NOW));
    let text = parts[0].annotations[ANNOTATION].clone();
    for bad in [
        String::new(),
        text.replacen('1', "2", 1),
        text.replacen('0', "/", 1),
        format!("{text} more"),
        text.replace(&NOW.to_string(), "soon"),
    ] {
        parts[0].annotations.insert(ANNOTATION.to_owned(), bad);
        assert!(Memories::named(&parts).0.is_empty());
    }
    parts[0].annotations.insert(ANNOTATION.to_owned(), text);
    parts[0].size = DOC_LIMIT + 1;
    assert!(
        Memories::of(&Document::Index(Index::of(parts)))
            .0
            .is_empty()
    );
}

#[test]
fn a_cache_keeps_the_latest_of_each_place_within_bounds() {
    let mut memories = Memories::default();
    for head in 0..200_u32 {
        let label = label(head % 20, head, NOW + i64::from(head));
        memories = with(&memories, &label, 100);
        assert!(memories.0.len() <= MOST);
        assert_eq!(memories.0[0].label, label, "what was just made is kept");
    }
    let mut of_place = HashMap::<&str, usize>::new();
    for entry in &memories.0 {
        *of_place.entry(&entry.label.place).or_default() += 1;
    }
    assert!(of_place.values().all(|count| *count <= MOST_OF_PLACE));
    assert_eq!(memories.0.len(), MOST);

    let old = with(&memories, &label(1, 999, NOW + 91 * DAY), 100);
    assert_eq!(
        heads(&old),
        [format!("{:032x}", 999)],
        "the others are too old"
    );
    let mut large = Memories::default();
    for head in 0..8 {
        large = with(&large, &label(head, head, NOW), 1 << 20);
    }
    assert_eq!(large.0.len(), 4);
}

#[test]
fn what_says_that_it_is_of_the_future_drives_nothing_out() {
    let mut memories = Memories::default();
    for head in 0..8 {
        memories = with(&memories, &label(1, head, i64::MAX - 1), 10);
    }
    let own = label(1, 100, NOW);
    let memories = with(&memories, &own, 10);
    assert_eq!(memories.0[0].label, own);
    assert!(memories.has_fresh(&own));
    assert!(memories.0.iter().all(|entry| entry.label.time <= NOW));
}

#[test]
fn the_same_build_is_not_written_again() {
    let memories = with(&Memories::default(), &label(1, 1, NOW), 10);
    let later = label(1, 1, NOW + 8 * DAY);
    assert!(memories.has_fresh(&label(1, 1, NOW + DAY)));
    assert!(!memories.has_fresh(&later));
    let marked = memories.with(&later, || panic!("it is there")).unwrap();
    assert_eq!((marked.0.len(), marked.0[0].label.time), (1, later.time));
    assert!(
        marked.with(&label(1, 2, NOW), || None).is_none(),
        "too large"
    );
}

fn memo(text: &str, inputs: Vec<usize>, fields: &[(&str, &str)]) -> Memo {
    let field = |(name, value): &(&str, &str)| Field {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    Memo {
        name: text.to_owned(),
        text: text.to_owned(),
        stage: "build".to_owned(),
        platform: "linux/amd64".to_owned(),
        line: Some(3),
        kind: Kind::Run,
        inputs,
        key: CacheKey(Sha256::digest(text).into()),
        fields: fields.iter().map(field).collect(),
        args: Vec::new(),
        image: None,
        no_cache: false,
        reads: None,
        ended: Ended::Cached,
        failed: None,
        sealed: Vec::new(),
        hidden: false,
    }
}

fn remembered(steps: Vec<Memo>) -> Remembered {
    let step = |memo: Memo| RememberedStep {
        instruction: memo.text.clone(),
        memo,
        reads: None,
    };
    Remembered {
        label: label(1, 0, NOW),
        steps: steps.into_iter().map(step).collect(),
    }
}

#[test]
fn what_is_written_is_read_and_a_build_opens_what_it_has() {
    let steps = vec![
        memo(
            "RUN one",
            vec![],
            &[("env A", "value-of-a"), ("user", "root")],
        ),
        memo(
            "RUN two",
            vec![0],
            &[("env A", "value-of-a"), ("context files", "feed")],
        ),
    ];
    for shown in [true, false] {
        let doc = Doc::of(&remembered(steps.clone()), &|_| shown);
        let bytes = doc.encode().unwrap();
        let plain = zstd::decode_all(bytes.as_slice()).unwrap();
        let plain = String::from_utf8(plain).unwrap();
        assert!(!plain.contains("value-of-a"));
        assert_eq!(plain.contains("RUN one"), shown);
        assert_eq!(plain.contains("env A"), shown);
        let (same, _) = Doc::decode(&bytes).unwrap().open(&steps).unwrap();
        for (opened, own) in same.iter().zip(&steps) {
            let expected = Memo {
                hidden: !shown,
                ..own.clone()
            };
            assert_eq!(*opened, expected);
        }
        let mut other = steps.clone();
        other[0].fields[0].value = "another".to_owned();
        other[1].fields[0].value = "another".to_owned();
        let (opened, _) = doc.open(&other).unwrap();
        let expected = if shown { "env A" } else { "" };
        assert_eq!(opened[0].sealed, [expected]);
        // What is shown of a cache is told apart by every build.
        assert_eq!(opened[0].text, "RUN one");
    }
}

#[test]
fn a_memory_that_no_build_writes_is_refused() {
    let steps = vec![memo("RUN one", vec![], &[]), memo("RUN two", vec![0], &[])];
    let bytes = Doc::of(&remembered(steps), &|_| true).encode().unwrap();
    let plain = String::from_utf8(zstd::decode_all(bytes.as_slice()).unwrap()).unwrap();
    let packed = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    assert!(Doc::decode(&packed(&plain)).is_ok());
    let list = |bytes: &[u8]| {
        use base64::Engine as _;
        let list = base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes);
        plain.replacen('{', &format!("{{\"files\":{{\"0\":\"{list}\"}},"), 1)
    };
    assert!(Doc::decode(&packed(&list(b"kiln reads 2\n\x01"))).is_ok());
    // A path of a megabyte, which each entry after it has anew.
    let mut long = b"kiln reads 2\n\x00\x00\xc0\x84\x3d".to_vec();
    long.extend(vec![b'a'; 1_000_000]);
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("no JSON", packed("[")),
        ("inputs", packed(&plain.replace("[0]", "[2]"))),
        (
            "version",
            packed(&plain.replace("\"version\":1", "\"version\":2")),
        ),
        (
            "salt",
            packed(&plain.replace("\"salt\":\"", "\"salt\":\"x")),
        ),
        ("a list of nothing", packed(&list(b""))),
        (
            "a list that is cut",
            packed(&list(b"kiln reads 2\n\x01\x00\x05a")),
        ),
        ("a long path", packed(&list(&long))),
    ] {
        assert!(Doc::decode(&bytes).is_err(), "{what}");
    }
    let deep = packed(&"[".repeat(100_000));
    assert!(Doc::decode(&deep).is_err());
    let key = plain.find("\"key\":\"").unwrap() + 7;
    let odd = format!("{}é{}", &plain[..key], &plain[key + 2..]);
    let doc = Doc::decode(&packed(&odd)).unwrap();
    assert!(doc.open(&[]).is_none(), "a key that is none");
}

proptest! {
    #[test]
    fn whatever_lies_there_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = rewritten(&bytes);
        let _ = rewritten(&zstd::encode_all(bytes.as_slice(), 1).unwrap());
    }

    /// What somebody changed in a memory is read or refused, and reads the same when it is written again.
    #[test]
    fn a_changed_memory_is_read_or_refused(at in 0_usize..2_000, byte in any::<u8>()) {
        let steps = vec![
            memo("RUN one", vec![], &[("env A", "1")]),
            memo("RUN two", vec![0], &[("argument 0", "x"), ("context files", "y")]),
        ];
        let doc = Doc::of(&remembered(steps), &|at| at == 0);
        let mut plain = zstd::decode_all(doc.encode().unwrap().as_slice()).unwrap();
        let at = at % plain.len();
        plain[at] = byte;
        if let Some(read) = rewritten(&zstd::encode_all(plain.as_slice(), 1).unwrap()) {
            prop_assert_eq!(rewritten(&read), Some(read));
        }
    }
}
