//! Every element of a hash map, each once, while programs put in and take out; or an error, never a part that looks like the whole.
//! libbpf-rs has iterators for this: they take a short batch and any error for the end.

use std::{collections::HashSet, ffi::c_void, io, os::fd::AsRawFd, ptr};

use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::{MapCore, MapFlags, libbpf_sys};
use nix::errno::Errno;

/// A walk by keys has so many steps for each element that the map can hold: more than one, because a key that was taken out sets it back.
const STEPS_PER_ENTRY: u64 = 4;
/// And at least so many, where the map is small.
const STEPS_MIN: u64 = 1024;

/// Gives `each` every value of a hash map whose keys have eight bytes, many by one call, `count` of them if that holds the fullest bucket.
/// What is put in or taken out meanwhile may be among them or not; nothing comes twice but what is put in anew. From Linux 5.6 on.
///
/// # Errors
/// The kernel refuses: some values were given, others not.
pub fn by_batches(map: &impl MapCore, count: u32, mut each: impl FnMut(&[u8])) -> Result<()> {
    let value_len = lengths(map)?;
    let mut values = Batch::new(count, value_len);
    let mut place = None;
    loop {
        let batch = values.fill(map, place);
        match batch.error {
            // It goes on, however few they are: a bucket is given whole, and the next one did not fit into what was left.
            None if batch.count > 0 => {}
            None => bail!("the kernel gave an empty batch"),
            // That was the end, with what is in this batch.
            Some(Errno::ENOENT) => {}
            Some(Errno::ENOSPC) => {
                ensure!(values.keys.len() <= map.max_entries() as usize, "a batch of {} is too small for one bucket", values.keys.len());
                values = Batch::new((values.keys.len() as u32).saturating_mul(2), value_len);
                continue;
            }
            Some(error) => return Err(io::Error::from(error)).context("reading a batch"),
        }
        values.values.chunks_exact(value_len).take(batch.count as usize).for_each(&mut each);
        if batch.error.is_some() {
            return Ok(());
        }
        place = Some(batch.next);
    }
}

/// Room for what one call reads.
struct Batch {
    keys: Vec<u64>,
    values: Vec<u8>,
}

/// What one call said.
struct Filled {
    count: u32,
    /// Where the next call begins: for a hash map the number of a bucket, of 32 bits, in the room of a key.
    next: u64,
    error: Option<Errno>,
}

impl Batch {
    fn new(count: u32, value_len: usize) -> Self {
        Self { keys: vec![0; count as usize], values: vec![0; count as usize * value_len] }
    }

    #[allow(unsafe_code, reason = "libbpf-rs keeps what the call says to itself")]
    fn fill(&mut self, map: &impl MapCore, mut place: Option<u64>) -> Filled {
        let mut next = 0_u64;
        let mut count = self.keys.len() as u32;
        let options = libbpf_sys::bpf_map_batch_opts { sz: size_of::<libbpf_sys::bpf_map_batch_opts>() as _, ..Default::default() };
        // SAFETY: the kernel writes up to `count` keys and values, for which there is room: `lengths` has looked at their sizes. The
        // places have the eight bytes of a key; it writes four or eight of them.
        let result = unsafe {
            libbpf_sys::bpf_map_lookup_batch(
                map.as_fd().as_raw_fd(),
                place.as_mut().map_or(ptr::null_mut(), |place| ptr::from_mut(place).cast()),
                ptr::from_mut(&mut next).cast(),
                self.keys.as_mut_ptr().cast(),
                self.values.as_mut_ptr().cast(),
                &mut count,
                &options,
            )
        };
        Filled { count, next, error: (result < 0).then(|| Errno::from_raw(-result)) }
    }
}

/// The same, one key after the other, for any kernel: two calls an element.
///
/// The kernel finds the key behind a given one; if that is gone, it begins anew. So a key counts only when it is still there after the
/// one behind it was asked for; else the walk goes on from the last that is.
///
/// # Errors
/// The kernel refuses, or so much is put in and taken out that the walk does not come to its end.
pub fn by_keys(map: &impl MapCore, mut each: impl FnMut(&[u8])) -> Result<()> {
    lengths(map)?;
    let steps_max = (u64::from(map.max_entries()) * STEPS_PER_ENTRY).max(STEPS_MIN);
    let mut visited = HashSet::new();
    let mut trail = Vec::new();
    let mut at = key_behind(map, None)?;
    for _ in 0..steps_max {
        let Some(key) = at else { return Ok(()) };
        at = key_behind(map, Some(key))?;
        match map.lookup(&key.to_ne_bytes(), MapFlags::ANY).context("reading an element")? {
            Some(value) => {
                trail.push(key);
                if visited.insert(key) {
                    each(&value);
                }
            }
            None => {
                at = match trail.pop() {
                    Some(last) => Some(last),
                    None => key_behind(map, None)?,
                }
            }
        }
    }
    bail!("it changes faster than it can be read: no end after {steps_max} keys")
}

/// `None`: there is none.
#[allow(unsafe_code, reason = "libbpf-rs takes any error for the end")]
fn key_behind(map: &impl MapCore, key: Option<u64>) -> Result<Option<u64>> {
    let mut next = 0_u64;
    let key = key.as_ref().map_or(ptr::null(), |key| ptr::from_ref(key).cast::<c_void>());
    // SAFETY: both are the eight bytes of a key: `lengths` has looked.
    let result = unsafe { libbpf_sys::bpf_map_get_next_key(map.as_fd().as_raw_fd(), key, ptr::from_mut(&mut next).cast()) };
    match result {
        0.. => Ok(Some(next)),
        error if Errno::from_raw(-error) == Errno::ENOENT => Ok(None),
        error => Err(io::Error::from_raw_os_error(-error)).context("looking for the next key"),
    }
}

/// Of a value; keys have eight bytes.
fn lengths(map: &impl MapCore) -> Result<usize> {
    let kind = map.map_type();
    ensure!(kind == libbpf_rs::MapType::Hash, "a map of kind {kind:?} is not read so");
    ensure!(map.key_size() == size_of::<u64>() as u32, "its keys have {} bytes, not 8", map.key_size());
    Ok(map.value_size() as usize)
}
