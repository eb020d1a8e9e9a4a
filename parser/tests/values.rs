//! Tables for mounts, devices, ports, flags' values, suggestions and quoting.

use parser::mount::{self, Mount, MountType, Sharing};
use parser::{device, port, suggest, value};

fn same(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn parses(text: &str, wanted: &Mount) {
    assert_eq!(mount::parse(text, &same).as_ref(), Ok(wanted), "{text}");
    assert_eq!(mount::check(text), Ok(()), "{text}");
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn bind_mounts_parse() {
    let bind = Mount {
        readonly: true,
        ..Mount::default()
    };
    let to = |target: &str| Mount {
        target: some(target),
        ..bind.clone()
    };
    parses("target=/x", &to("/x"));
    parses("destination=/d,RW=false", &to("/d"));
    parses("type=Bind,\"dst=/a,b\"", &to("/a,b"));
    let source = Mount {
        source: some("s"),
        readonly: false,
        ..to("/d")
    };
    parses("src=s,target=/d,ro=0", &source);
    let from = Mount {
        from: some("b"),
        ..source
    };
    parses("type=bind,from=b,source=s,dst=/d,rw", &from);
    let dollar = Mount {
        from: some("a$"),
        ..bind
    };
    parses("from=a$", &dollar);
}

#[test]
fn other_mounts_parse() {
    let kind = |kind: MountType| Mount {
        kind,
        ..Mount::default()
    };
    let cache = Mount {
        id: some("i"),
        target: some("/c"),
        sharing: Sharing::Locked,
        mode: Some(0o755),
        uid: Some(1),
        gid: Some(2),
        ..kind(MountType::Cache)
    };
    parses(
        "type=CACHE,id=i,target=/c,sharing=Locked,mode=0755,uid=1,gid=2",
        &cache,
    );
    let readonly = Mount {
        readonly: true,
        ..kind(MountType::Cache)
    };
    parses("type=cache,ro", &readonly);
    let tmpfs = Mount {
        size: Some(10 << 20),
        ..kind(MountType::Tmpfs)
    };
    parses("type=tmpfs,size=10MiB", &tmpfs);
    let secret = Mount {
        id: some("a,b"),
        required: true,
        env: some("TOKEN"),
        mode: Some(0o400),
        readonly: true,
        ..kind(MountType::Secret)
    };
    parses(
        "type=secret,\"id=a,b\",required,env=TOKEN,mode=400",
        &secret,
    );
    let ssh = Mount {
        required: true,
        readonly: true,
        ..kind(MountType::Ssh)
    };
    parses("type=ssh,required=true", &ssh);
}

#[test]
fn mount_values_are_expanded() {
    let upper = |text: &str| {
        if text == "bad" {
            Err("no".to_owned())
        } else {
            Ok(text.replace("$K", "cache"))
        }
    };
    let found = mount::parse("type=$K,id=x-$K", &upper).expect("a mount");
    assert_eq!(
        (found.kind, found.id.as_deref()),
        (MountType::Cache, Some("x-cache"))
    );
    assert_eq!(mount::parse("id=bad", &upper), Err("no".to_owned()));
    assert_eq!(mount::check("type=$K,typ=x"), Ok(()));
}

#[test]
fn wrong_mounts_say_why() {
    let table = [
        (
            "type=tmp",
            "unsupported mount type \"tmp\" (did you mean tmpfs?)",
        ),
        ("type=volume", "unsupported mount type \"volume\""),
        (
            "typ=tmpfs",
            "unexpected key 'typ' in 'typ=tmpfs' (did you mean type?)",
        ),
        ("colour=red", "unexpected key 'colour' in 'colour=red'"),
        ("target", "invalid field 'target' must be a key=value pair"),
        (
            "from=$X",
            "'from' doesn't support variable expansion, define alias stage instead",
        ),
        (
            "required",
            "unexpected key 'required' for mount type 'bind'",
        ),
        (
            "type=cache,required=true",
            "unexpected key 'required' for mount type 'cache'",
        ),
        ("size=1", "unexpected key 'size' for mount type 'bind'"),
        ("type=tmpfs,size=big", "invalid value for size: big"),
        ("ro=maybe", "invalid value for ro: maybe"),
        ("mode=1", "mode not allowed for \"bind\" type mounts"),
        (
            "type=tmpfs,uid=1",
            "uid not allowed for \"tmpfs\" type mounts",
        ),
        ("gid=1", "gid not allowed for \"bind\" type mounts"),
        ("type=cache,mode=9", "invalid value 9 for mode"),
        ("type=cache,uid=-1", "invalid value -1 for uid"),
        ("type=cache,gid=x", "invalid value x for gid"),
        ("sharing=locked", "invalid cache sharing set for bind mount"),
        (
            "type=cache,sharing=lock",
            "unsupported sharing value \"lock\" (did you mean locked?)",
        ),
        (
            "type=secret",
            "invalid secret mount. one of source, target required",
        ),
        (
            "type=secret,id=a,from=b",
            "secret mount should not have a from",
        ),
        (
            "type=secret,id=a,sharing=shared",
            "secret mount should not define sharing",
        ),
        (
            "type=secret,id=a,source=b",
            "both source and id can't be set",
        ),
        ("", "failed to parse csv mounts: EOF"),
        (
            "a\"b",
            "failed to parse csv mounts: parse error on line 1, column 2: bare \" in non-quoted field",
        ),
        (
            "\"a",
            "failed to parse csv mounts: parse error on line 1, column 3: extraneous or missing \" in quoted-field",
        ),
        (
            "\"a\"b",
            "failed to parse csv mounts: parse error on line 1, column 3: extraneous or missing \" in quoted-field",
        ),
    ];
    for (text, wanted) in table {
        assert_eq!(mount::parse(text, &same), Err(wanted.to_owned()), "{text}");
    }
}

#[test]
fn devices_parse() {
    let found = device::parse("vendor.com/gpu=0,required").expect("a device");
    assert_eq!(
        (found.name.as_str(), found.required),
        ("vendor.com/gpu=0", true)
    );
    let found = device::parse("name=all,required=false").expect("a device");
    assert_eq!((found.name.as_str(), found.required), ("all", false));
    let table = [
        ("a,b", "invalid field 'b' must be a key=value pair"),
        ("a,name=b", "device name already set to a"),
        (
            "a,require=true",
            "unexpected key 'require' in 'require=true' (did you mean required?)",
        ),
        ("a,required=x", "invalid value for required: x"),
    ];
    for (text, wanted) in table {
        assert_eq!(device::parse(text), Err(wanted.to_owned()), "{text}");
    }
}

#[test]
fn ports_parse() {
    let table: [(&str, &[&str], bool); 10] = [
        ("80", &["80/tcp"], false),
        ("0", &["0/tcp"], false),
        ("53/udp", &["53/udp"], false),
        ("53/UDP", &["53/udp"], false),
        (
            "8000-8002/sctp",
            &["8000/sctp", "8001/sctp", "8002/sctp"],
            false,
        ),
        ("80-80", &["80/tcp"], false),
        ("8080:80", &["80/tcp"], true),
        ("8080-8090:80", &["80/tcp"], true),
        ("127.0.0.1:8080:80/tcp", &["80/tcp"], true),
        ("[::1]:1-2:3-4", &["3/tcp", "4/tcp"], true),
    ];
    for (text, wanted, has_host) in table {
        let found = port::parse(text).expect("ports");
        assert_eq!(found.names(), wanted, "{text}");
        assert_eq!(found.has_host, has_host, "{text}");
        assert_eq!(found.odd_case, text.contains("UDP"), "{text}");
    }
    assert_eq!(
        port::parse("0-65535").expect("all ports").names().len(),
        65_536
    );
}

#[test]
fn wrong_ports_say_why() {
    let table = [
        ("", "invalid port: \"\": no port specified"),
        ("/tcp", "invalid port: \"/tcp\": no port specified"),
        ("80/http", "invalid port: \"80/http\": invalid proto: http"),
        ("http", "invalid containerPort: http"),
        ("65536", "invalid containerPort: 65536"),
        ("-1", "invalid containerPort: -1"),
        ("9-8", "invalid containerPort: 9-8"),
        ("x:80", "invalid hostPort: x"),
        (
            "1-2:3-6",
            "invalid ranges specified for container and host Ports: 3-6 and 1-2",
        ),
        ("host:80:80", "invalid IP address: host"),
        (
            "[::1:80:80",
            "invalid IP address [::1: missing ']' in address",
        ),
    ];
    for (text, wanted) in table {
        assert_eq!(port::parse(text), Err(wanted.to_owned()), "{text}");
    }
}

#[test]
fn durations_parse() {
    let second = 1_000_000_000;
    let table = [
        ("0", Ok(0)),
        ("30s", Ok(30 * second)),
        ("1h2m3.5s", Ok(3_723 * second + second / 2)),
        ("-1.5s", Ok(-3 * second / 2)),
        ("+.5s", Ok(second / 2)),
        ("1us1\u{b5}s1\u{3bc}s2ns", Ok(3_002)),
        ("1.0000000001s", Ok(second)),
        ("", Err("time: invalid duration \"\"")),
        ("-", Err("time: invalid duration \"-\"")),
        (".s", Err("time: invalid duration \".s\"")),
        ("s", Err("time: invalid duration \"s\"")),
        ("5", Err("time: missing unit in duration \"5\"")),
        ("5d", Err("time: unknown unit \"d\" in duration \"5d\"")),
        ("9999999h", Err("time: invalid duration \"9999999h\"")),
    ];
    for (text, wanted) in table {
        assert_eq!(
            value::duration(text),
            wanted.map_err(str::to_owned),
            "{text}"
        );
    }
}

#[test]
fn sizes_numbers_and_booleans_parse() {
    let sizes = [
        ("1", Some(1)),
        ("1b", Some(1)),
        ("2k", Some(2048)),
        ("2KB", Some(2048)),
        ("1.5 GiB", Some(3 << 29)),
        ("1P", Some(1 << 50)),
        ("1bb", None),
        ("1kx", None),
        ("1kibb", None),
        ("-1", None),
        ("g", None),
        ("", None),
        ("1e3", Some(1000)),
        ("999999999P", None),
    ];
    for (text, wanted) in sizes {
        assert_eq!(value::bytes(text), wanted, "{text}");
    }
    assert_eq!(value::unsigned("0755", 8), Some(0o755));
    assert_eq!(value::unsigned("8", 8), None);
    assert_eq!(value::unsigned("+1", 10), None);
    assert_eq!(value::unsigned("4294967296", 10), None);
    assert_eq!(value::int32("-7"), Ok(-7));
    assert_eq!(
        value::int32("1_0"),
        Err("strconv.ParseInt: parsing \"1_0\": invalid syntax".to_owned())
    );
    assert_eq!(
        value::int32("2147483648"),
        Err("strconv.ParseInt: parsing \"2147483648\": value out of range".to_owned())
    );
    assert_eq!(
        [
            value::boolean("T"),
            value::boolean("0"),
            value::boolean("yes")
        ],
        [Some(true), Some(false), None]
    );
}

#[test]
fn near_names_are_found() {
    let options = ["from", "chown", "chmod", "link"];
    assert_eq!(suggest::nearest("form", &options), Some("from"));
    assert_eq!(suggest::nearest("chwon", &options), Some("chown"));
    assert_eq!(suggest::nearest("from", &options), None);
    assert_eq!(suggest::nearest("platform", &options), None);
    assert_eq!(
        suggest::nearest_any_case("FORM", &["FROM"]).as_deref(),
        Some("FROM")
    );
    assert_eq!(
        suggest::nearest_any_case("form", &["FROM"]).as_deref(),
        Some("from")
    );
}

#[test]
fn text_is_quoted() {
    assert_eq!(
        parser::quote("a\"b\\c\n\t\u{0}\u{7f}é♥\u{a0}\u{200b}\u{10ffff}"),
        "\"a\\\"b\\\\c\\n\\t\\x00\\x7fé♥\\u00a0\\u200b\\U0010ffff\""
    );
}
