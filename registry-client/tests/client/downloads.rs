//! Plain downloads that break off.

use crate::support::{chain, client, noise};
use registry_client::{Download, DownloadHead, Downloaded, Flow, Receiver};
use testkit::registry::{Action, FakeRegistry, Fault};

#[derive(Default)]
struct Collected {
    begun: usize,
    bytes: Vec<u8>,
}

impl Receiver for Collected {
    fn begin(&mut self, _: &DownloadHead) -> std::io::Result<Flow> {
        self.begun += 1;
        self.bytes.clear();
        Ok(Flow::Continue)
    }

    fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

#[tokio::test]
async fn a_download_goes_on_where_the_file_is_surely_the_same() {
    let etag = |value: &str| Action::Header("ETag".to_owned(), Some(value.to_owned()));
    let get = || Fault::on("GET", "/blobs/");
    let broken = |value: &str| {
        get()
            .with(Action::Short(2_000_000))
            .with(etag(value))
            .times(1)
    };
    // The first answer, those after it, how often the file begins, and what is asked for in the end.
    let cases = [
        (
            broken("\"a\""),
            get().with(etag("\"a\"")),
            1,
            Some("bytes=2000000-"),
        ),
        (
            broken("\"a\""),
            get().with(etag("\"a\"")).with(Action::IgnoreRange),
            2,
            Some("bytes=2000000-"),
        ),
        (broken("W/\"a\""), get().with(etag("W/\"a\"")), 2, None),
        (
            get().with(Action::Short(2_000_000)).times(1),
            get(),
            2,
            None,
        ),
        // A server that gives a part of another file is not believed.
        (broken("\"a\""), get().with(etag("\"b\"")), 2, None),
        (broken("\"a\""), get().status(416).times(1), 2, None),
    ];
    for (first, then, begun, range) in cases {
        let shown = format!("{first:?} {then:?}");
        let registry = FakeRegistry::start();
        let bytes = noise(3_000_000);
        let digest = registry.put_blob(bytes.clone());
        registry.fault(first);
        registry.fault(then);
        let download = Download {
            url: format!("{}/v2/app/blobs/{digest}", registry.url()),
            ..Download::default()
        };
        let mut collected = Collected::default();
        let ended = client().download(&download, &mut collected).await;
        let ended = ended.unwrap_or_else(|error| panic!("{shown}: {}", chain(&error)));
        assert!(matches!(ended, Downloaded::Complete(_)), "{shown}");
        assert!(collected.bytes == bytes, "{shown}");
        assert_eq!(collected.begun, begun, "{shown}");
        let requests = registry.requests();
        assert_eq!(requests.last().unwrap().header("range"), range, "{shown}");
    }
}
