//! The generated skeletons of the BPF objects, and which of its types may be made from any bytes.

#![allow(unsafe_code, reason = "generated code, and Plain for generated types")]

#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::wildcard_imports, missing_docs, non_snake_case)]
#[allow(dead_code, reason = "of the skeleton the types are used: the loader serves two objects, by the names of what is in them")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/remora.skel.rs"));
}

pub use generated::types;

/// For kernels with BTF of their own, from 5.12 on.
pub static TYPED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/typed.bpf.o"));
/// For all others from 5.4 on: the one that is relocated by BTF from elsewhere.
pub static PLAIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/plain.bpf.o"));

/// The object of the family `packet`.
pub mod packet {
    #[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::wildcard_imports, missing_docs, non_snake_case)]
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/packet.skel.rs"));
    }

    pub use generated::{OpenPacketSkel, PacketSkel, PacketSkelBuilder, types};

    const _: () = assert!(size_of::<types::frame_event>() == 48, "layout differs from the C header");
    const _: () = assert!(size_of::<types::network_key>() == 20, "layout differs from the C source");
    // SAFETY: as below: integers and arrays of them only, all padding is named, `repr(C)`.
    unsafe impl plain::Plain for types::frame_event {}
    // SAFETY: likewise.
    unsafe impl plain::Plain for types::network_key {}
}

/// Says that every bit pattern is a valid value, and checks the size that `events.h` and `maps.h` give.
macro_rules! plain {
    ($($name:ident: $size:literal,)*) => {$(
        const _: () = assert!(size_of::<types::$name>() == $size, "layout differs from the C header");
        // SAFETY: the C struct has integers and arrays of them only, all padding is named, and it is `repr(C)`.
        unsafe impl plain::Plain for types::$name {}
    )*};
}

plain! {
    event_header: 32,
    open_event: 120,
    owner_event: 56,
    close_event: 96,
    fail_event: 112,
    listen_event: 96,
    data_event: 48,
    exec_event: 312,
    exit_event: 32,
    fork_event: 40,
    counters_event: 56,
    sweep_event: 40,
    udp_open_event: 112,
    datagram_event: 72,
    cgroup_event: 40,
    socket_tuple: 40,
    conn: 168,
    capture_wish: 24,
    settings: 40,
}

/// The bytes of a value, for records that user space writes itself.
pub fn bytes<T: plain::Plain>(value: &T) -> &[u8] {
    // SAFETY: all padding of the types above is named, so every byte is initialised.
    unsafe { plain::as_bytes(value) }
}

/// The objects that are relocated by BTF from elsewhere, by name: what such BTF is minimised for.
pub const OBJECTS: &[(&str, &[u8])] = &[("plain", PLAIN)];
