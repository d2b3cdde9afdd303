# A Nix package of the files of a release. The tarballs are next to this file:
#     nix-build -E 'with import <nixpkgs> { }; callPackage ./corten.nix { }'
{ lib, stdenvNoCC }:
let
  arch = stdenvNoCC.hostPlatform.parsed.cpu.name;
  hashes = {
    x86_64 = "@SHA256_x86_64@";
    aarch64 = "@SHA256_aarch64@";
    riscv64 = "@SHA256_riscv64@";
  };
in
stdenvNoCC.mkDerivation rec {
  pname = "corten";
  version = "@VERSION@";
  src = builtins.path {
    name = "corten-${version}-${arch}.tar.gz";
    path = ./. + "/corten-${version}-${arch}.tar.gz";
    recursive = false;
    sha256 = hashes.${arch};
  };
  # The executable is static and stripped, and is the same in every package of the release.
  dontStrip = true;
  dontPatchELF = true;
  # The only scripts, in the documentation, also run in an image that has only /bin/sh.
  dontPatchShebangs = true;
  installPhase = ''
    mkdir -p $out/lib/systemd/system
    cp -r bin share $out/
    cd $out/share/doc/corten/samples
    find . -type f -exec sed -i "s,/usr/local/bin,$out/bin," {} +
    mv systemd/corten-gc.service $out/lib/systemd/system/
    rmdir systemd
  '';
  meta = {
    description = "OCI low-level container runtime";
    license = lib.licenses.asl20;
    platforms = map (cpu: "${cpu}-linux") (builtins.attrNames (lib.filterAttrs (cpu: hash: hash != "") hashes));
    mainProgram = "corten";
  };
}
