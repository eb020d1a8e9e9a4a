//! Any bytes are a file of credentials or not, without a panic; what is kept in one is found again, and errors quote
//! none of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_client::{Credential, CredentialFile, HelperSettings, Secret};
use std::time::Duration;

fuzz_target!(|bytes: &[u8]| {
    // Helpers are programs, which are not to be started.
    if bytes.windows(4).any(|part| part == b"cred") || bytes.contains(&b'\\') {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.json");
    std::fs::write(&path, bytes).expect("a file");
    let settings = HelperSettings {
        prepare: None,
        timeout: Duration::from_secs(1),
    };
    let Ok(mut file) = CredentialFile::open(&path, settings) else {
        return;
    };
    let _ = (file.registries(), file.credential("r.example/team/app"));
    let own = Credential::Password {
        username: "me".to_owned(),
        password: Secret::new("secret:of mine"),
    };
    if file.store("own.example:5000", &own).is_ok() {
        assert!(!format!("{file:?} {own:?}").contains("secret"));
        file.save().expect("it can be written");
        let file = CredentialFile::open(&path, settings).expect("it can be read");
        if let Ok(found) = file.credential("own.example:5000") {
            assert_eq!(found, Some(own));
        }
    }
});
