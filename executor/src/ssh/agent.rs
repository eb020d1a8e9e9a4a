//! The agent protocol (draft-ietf-sshm-ssh-agent): frames of a length, a type and a payload.
//!
//! Only questions for identities and signatures pass, as with BuildKit: a command cannot add, remove or lock keys.

use super::key::{Key, Reader, push_text};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const EXTENSION: u8 = 27;

/// Longest frame, in bytes (OpenSSH's).
const LONGEST: u32 = 256 << 10;

/// Answers a client's frames until it is gone.
pub(super) fn serve(
    mut client: UnixStream,
    mut answer: impl FnMut(&[u8]) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    while let Some(request) = read(&mut client)? {
        write(&mut client, &answer(&request)?)?;
    }
    Ok(())
}

/// A frame without its length; `None` at the end.
fn read(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_be_bytes(length);
    if length == 0 || length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length as usize];
    stream.read_exact(&mut frame)?;
    Ok(Some(frame))
}

fn write(stream: &mut UnixStream, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(frame);
    stream.write_all(&bytes)
}

/// Asks an agent what may be asked.
pub(super) fn ask(request: &[u8], agent: &mut UnixStream) -> io::Result<Vec<u8>> {
    if !matches!(request[0], REQUEST_IDENTITIES | SIGN_REQUEST | EXTENSION) {
        return Ok(vec![FAILURE]);
    }
    write(agent, request)?;
    read(agent)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Answers from keys.
pub(super) fn answer(request: &[u8], keys: &[Key]) -> io::Result<Vec<u8>> {
    let answer = match request[0] {
        REQUEST_IDENTITIES => Some(identities(keys)),
        SIGN_REQUEST => sign(&request[1..], keys),
        _ => None,
    };
    Ok(answer.unwrap_or_else(|| vec![FAILURE]))
}

fn identities(keys: &[Key]) -> Vec<u8> {
    let mut frame = vec![IDENTITIES_ANSWER];
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    frame.extend(count.to_be_bytes());
    for key in keys {
        push_text(&mut frame, key.public());
        push_text(&mut frame, key.comment().as_bytes());
    }
    frame
}

fn sign(request: &[u8], keys: &[Key]) -> Option<Vec<u8>> {
    let mut reader = Reader(request);
    let (public, data, flags) = (reader.text()?, reader.text()?, reader.number()?);
    let key = keys.iter().find(|key| key.public() == public)?;
    let mut frame = vec![SIGN_RESPONSE];
    push_text(&mut frame, &key.sign(data, flags)?);
    Some(frame)
}
