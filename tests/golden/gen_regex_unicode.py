"""Prints dataloader/regex_unicode.inc: characters too young for PCRE2 10.42 whose properties Hugging Face's regex library knows.

    python3 gen_regex_unicode.py > ../../dataloader/regex_unicode.inc          (tokenizers 0.22.2, libpcre2-8)

A character that PCRE2 has in a class and the other has not is reported on standard error: regex_syntax.c must not offer that class.
"""
import ctypes, sys
from tokenizers import Regex, pre_tokenizers
lib = ctypes.CDLL("libpcre2-8.so.0")
for f in ("pcre2_compile_8","pcre2_match_data_create_8","pcre2_get_ovector_pointer_8"): getattr(lib,f).restype=ctypes.c_void_p
def pcre_set(pattern):
    text="".join(chr(c) for c in range(0x110000) if not 0xD800<=c<0xE000).encode()
    err=ctypes.c_int(); off=ctypes.c_size_t()
    p=pattern.encode()
    code=lib.pcre2_compile_8(p,ctypes.c_size_t(len(p)),ctypes.c_uint32(0x00080000),ctypes.byref(err),ctypes.byref(off),None)
    assert code,(pattern,err.value)
    md=lib.pcre2_match_data_create_8(2,None)
    ov=ctypes.cast(lib.pcre2_get_ovector_pointer_8(ctypes.c_void_p(md)),ctypes.POINTER(ctypes.c_size_t))
    out=set(); at=0
    while lib.pcre2_match_8(ctypes.c_void_p(code),text,ctypes.c_size_t(len(text)),ctypes.c_size_t(at),ctypes.c_uint32(0x40000000),ctypes.c_void_p(md),None)>0:
        b,e=ov[0],ov[1]
        out|={ord(c) for c in text[b:e].decode()}
        at=e
    return out
def hf_set(pattern):
    split=pre_tokenizers.Split(Regex(pattern),"removed",invert=True)
    out=set()
    for lo in range(0,0x110000,0x8000):
        s="".join(chr(c) for c in range(lo,lo+0x8000) if not 0xD800<=c<0xE000)
        for w,_ in split.pre_tokenize_str(s): out|={ord(c) for c in w}
    return out
cats="Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf".split()
scripts="Han Hiragana Katakana Hangul Bopomofo Latin Cyrillic Greek Arabic Hebrew Thai Devanagari".split()
def ranges(s):
    s=sorted(s); r=[]
    for c in s:
        if r and r[-1][1]==c-1: r[-1][1]=c
        else: r.append([c,c])
    return r
n=0
rows=[]
for name in cats+scripts:
    h=hf_set(r"\p{%s}+"%name); p=pcre_set(r"\p{%s%s}+"%("sc:" if name in scripts else "",name))
    print(name,len(h),len(p),"missing",len(h-p),"extra",[hex(c) for c in sorted(p-h)][:20],file=sys.stderr)
    rows+=[(a,b,name) for a,b in ranges(h-p)]
for a,b,name in sorted(rows, key=lambda r:(r[2],r[0])): print('{0x%X, 0x%X, "%s"},'%(a,b,name))
