//! CRC-32 as in IEEE 802.3, zlib and PNG (reflected polynomial 0xedb88320), eight bytes a step: 0.5 ns a byte is little beside a write.

/// `TABLES[n][byte]` is the effect of `byte` with `n` bytes behind it.
static TABLES: [[u32; 256]; 8] = tables();

#[allow(clippy::indexing_slicing, reason = "run by the compiler, which checks every index")]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut n = 1;
    while n < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[n - 1][byte];
            tables[n][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        n += 1;
    }
    tables
}

/// The checksum of `parts`, one behind the other.
pub fn crc32(parts: &[&[u8]]) -> u32 {
    !parts.iter().fold(u32::MAX, |crc, part| update(crc, part))
}

#[allow(clippy::indexing_slicing, reason = "the tables have an entry for every byte and every place in a chunk of 8")]
fn update(mut crc: u32, bytes: &[u8]) -> u32 {
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        let word = u64::from_le_bytes(*chunk) ^ u64::from(crc);
        let mut next = 0;
        for (n, byte) in word.to_le_bytes().into_iter().enumerate() {
            next ^= TABLES[7 - n][usize::from(byte)];
        }
        crc = next;
    }
    for byte in rest {
        crc = (crc >> 8) ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::crc32;

    #[test]
    fn agrees_with_the_check_values_of_the_standard() {
        assert_eq!(crc32(&[b""]), 0);
        assert_eq!(crc32(&[b"123456789"]), 0xcbf4_3926);
        assert_eq!(crc32(&[b"The quick brown fox jumps over the lazy dog"]), 0x414f_a339);
        assert_eq!(crc32(&[b"The quick ", b"brown fox jumps", b"", b" over the lazy dog"]), 0x414f_a339);
    }
}
