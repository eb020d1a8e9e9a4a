//! Trying credentials out, as a login does.

use super::bearer::TokenRequest;
use super::{Access, Authorizer, Demand, Granted};
use crate::Error;
use crate::credentials::{Credential, Found, Secret};
use crate::transport::Transport;
use std::sync::Arc;

impl Authorizer {
    /// The header for credentials that are not (yet) in any file, and a refresh token if the service gives one.
    pub(crate) async fn login(
        &self,
        transport: &Transport,
        demand: &Demand,
        access: &Access<'_>,
        credential: &Credential,
    ) -> Result<(Granted, Option<Secret>), Error> {
        let Demand::OneOf(challenges) = demand else {
            return Ok((Granted::default(), None));
        };
        let found = Arc::new(Found {
            credential: credential.clone(),
            origin: "this login".to_owned(),
            stored: false,
        });
        let bearer = challenges.iter().find(|challenge| challenge.is("Bearer"));
        let (Some(challenge), Credential::Password { .. }) = (bearer, credential) else {
            let granted = self
                .meet(transport, challenges, access, Some(found), None)
                .await?;
            return Ok((granted, None));
        };
        let mut request = TokenRequest::new(transport, challenge, access, Some(found))?;
        request.offline = true;
        let token = self.tokens.fetch(transport, &request).await;
        let token = token.map_err(|error| request.failed(error))?;
        let granted = Granted {
            header: Some(token.header),
            login: request.with(),
        };
        Ok((granted, token.refresh))
    }
}
