//! How registries are reached, from flags and the environment. Nothing is read or asked here.

use crate::args::RegistryArgs;
use crate::environment::Environment;
use registry_client::ClientOptions;

/// The settings of a client.
pub fn client_options(args: &RegistryArgs, environment: &Environment) -> ClientOptions {
    let proxy = |name: &str| {
        let value = environment.get(name);
        value
            .or_else(|| environment.get(&name.to_lowercase()))
            .map(str::to_owned)
    };
    ClientOptions {
        http_proxy: proxy("HTTP_PROXY"),
        https_proxy: proxy("HTTPS_PROXY"),
        no_proxy: proxy("NO_PROXY"),
        registries_conf: environment.registries_conf(),
        insecure: args.insecure_registries.clone(),
        user_agent: concat!("kiln/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..ClientOptions::default()
    }
}
