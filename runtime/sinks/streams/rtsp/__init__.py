"""RTSP (RFC 2326): a stream served to others, or published at a server of theirs."""
